"""What lists are worth, judged by what the user does next."""

from ops.live import Answer, LiveEvent, UserTraffic
from schemas.recommendation import Cause, Recommendation

RANKING = [f"p{number}" for number in range(20)]


def event(offset: int, item_id: str = "x", sent_ms: int = 0) -> LiveEvent:
    return LiveEvent(0, offset, "anna", item_id, sent_ms)


def list_of(offset: int, *item_ids: str) -> Recommendation:
    return Recommendation("anna", [(i, 1.0) for i in item_ids], 1, Cause.EVENT, 0, offset, 0, None, 1, 0)


def show(user: UserTraffic, shown: Recommendation, at_ms: float = 0) -> list[Answer]:
    return user.show(shown, at_ms, RANKING)


def test_a_hit_is_an_item_of_the_last_list_before_the_event():
    user = UserTraffic()
    user.history.extend([event(1), event(2, "a"), event(3, "a")])
    assert [answer.hit for answer in show(user, list_of(1, "a", "b"))] == [None]
    assert [answer.hit for answer in show(user, list_of(2, "c"))] == [True]
    assert [answer.hit for answer in show(user, list_of(3, "a"))] == [False]


def test_one_list_may_answer_several_events_each_from_its_own_time():
    user = UserTraffic()
    user.history.append(event(1))
    show(user, list_of(1))
    user.history.extend([event(5, sent_ms=100), event(7, sent_ms=130)])
    assert [answer.latency_ms for answer in show(user, list_of(7), at_ms=150)] == [50, 20]


def test_events_from_before_the_first_list_are_not_answered_by_it():
    user = UserTraffic()
    user.history.extend([event(1), event(2)])
    assert [answer.event.offset for answer in show(user, list_of(2))] == [2]


def test_a_list_that_comes_again_answers_nothing_and_is_the_one_that_counts():
    user = UserTraffic()
    user.history.extend([event(1), event(2, "b")])
    show(user, list_of(1, "a"))
    assert show(user, list_of(1, "b")) == []
    assert [answer.hit for answer in show(user, list_of(2))] == [True]
    assert show(user, list_of(1, "late")) == []
    assert [list_.offset for list_ in user.lists] == [1, 2]


def test_most_popular_means_the_ten_that_the_user_has_not_met():
    user = UserTraffic()
    user.history.extend([event(0, "p0"), event(1, "p10"), event(2, "p11"), event(3, "p12"), event(4, "p12")])
    show(user, list_of(0))
    popular_hits = [show(user, list_of(offset))[0].popular_hit for offset in (1, 2, 3, 4)]
    # without p0 the tenth is p10, then p11 after p10 was met, then p12
    assert popular_hits == [True, True, True, False]


def test_items_beyond_the_tenth_are_no_hits():
    user = UserTraffic()
    user.history.extend([event(1), event(2, "i10")])
    show(user, list_of(1, *(f"i{number}" for number in range(11))))
    assert [answer.hit for answer in show(user, list_of(2))] == [False]
