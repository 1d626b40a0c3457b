from training.log.data_checks import Limits, problems
from training.log.histories import Histories, HistoryBuilder
from training.log.holdout import leave_one_out, newest

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000


def log(users: int = 50, events: int = 40, items: int = 7, step_ms: int = 1000, start_ms: int = 0) -> HistoryBuilder:
    builder = HistoryBuilder()
    for time in range(events):
        for user in range(users):
            builder.add(f"u{user}", f"i{(user + time) % items}", start_ms + step_ms * time)
    return builder


def found(histories: Histories, *, share: float = 0.1, limits: Limits | None = None) -> list[str]:
    holdout = newest(histories, share)
    return problems(histories, holdout, limits or Limits(), NOW_MS, held_out=share > 0, busiest="bot")


def test_an_ordinary_log_is_fit() -> None:
    assert found(log().build()) == []


def test_a_log_of_few_but_alike_users_has_no_burst() -> None:
    assert found(log(users=12, events=200).build()) == []


def test_too_few_users_with_two_events_are_told_with_both_figures() -> None:
    builder = log(users=9)
    for user in range(100):
        builder.add(f"once {user}", "i0", 0)
    assert found(builder.build()) == ["only 9 users have two events or more, --min-users is 10"]
    assert found(builder.build(), limits=Limits(min_users=9)) == []


def test_one_user_is_told_as_one() -> None:
    one = HistoryBuilder()
    for item in "abc":
        one.add("u", item, 0)
    assert found(one.build(), share=0) == ["only 1 user has two events or more, --min-users is 10"]


def test_a_single_item_leaves_nothing_to_rank() -> None:
    assert found(log(items=1).build()) == ["all 2,000 events are of one item, 'i0': there is nothing to rank"]


def test_constant_timestamps_hold_out_nothing_by_time_but_can_be_split_otherwise() -> None:
    histories = log(step_ms=0, start_ms=7).build()
    told = "nothing can be held out by time: all 2,000 events have the timestamp 7, try --split leave-one-out"
    assert found(histories) == [told]
    assert problems(histories, leave_one_out(histories), Limits(), NOW_MS, held_out=True) == []
    assert found(histories, share=0) == []


def test_too_few_held_out_events_are_told() -> None:
    told = "only 50 events are held out, --min-held-out is 60"
    assert found(log().build(), share=0.03, limits=Limits(min_held_out=60)) == [told]


def test_events_in_the_future_are_told_unless_they_are_few_or_within_the_tolerance() -> None:
    builder = log()
    for user in range(2):
        builder.add(f"u{user}", "i0", NOW_MS + 2 * DAY_MS)
    assert found(builder.build()) == []
    builder.add("u2", "i0", NOW_MS + 2 * DAY_MS)
    told = "3 of 2,003 events are more than 24 h in the future, --max-future-share is 0.001"
    assert found(builder.build()) == [told]
    assert found(builder.build(), limits=Limits(future_tolerance_h=72)) == []


def test_a_burst_of_one_user_is_told_with_its_share() -> None:
    builder = log(users=200, events=10)
    for time in range(230):
        builder.add("bot", "i0", time)
    told = "user 'bot' has 230 of 2,230 events, 10.3%, and the median user 10; --max-user-share is 0.05"
    assert found(builder.build()) == [told]
    assert found(builder.build(), limits=Limits(max_user_share=0.2)) == []
