import numpy as np
import pytest

from training.fitting.evaluation import ndcg
from training.log.histories import Histories, HistoryBuilder, Spans
from training.release.gate import MIN_EVENTS, MIN_USERS, clustered_mean, judge, owners, unseen

USERS, EACH = 60, 20


def of_users(random: np.random.Generator, hit: float) -> np.ndarray:
    """Ranks of 20 events of each of 60 users: 0 with this probability, else missed."""
    return np.where(random.random(USERS * EACH) < hit, 0, 10**6)


def everyone() -> np.ndarray:
    return np.repeat(np.arange(USERS), EACH)


def test_a_candidate_that_is_clearly_worse_is_rejected_with_its_figures() -> None:
    random = np.random.default_rng(0)
    gate = judge(7, everyone(), of_users(random, 0.1), of_users(random, 0.3))
    assert (gate.verdict, gate.champion, gate.events, gate.users) == ("rejected", 7, USERS * EACH, USERS)
    assert gate.low is not None
    assert gate.high is not None
    assert gate.difference is not None
    assert gate.low < gate.difference < gate.high < 0
    assert gate.candidate_ndcg_at_10 == pytest.approx(0.1, abs=0.03)
    assert gate.champion_ndcg_at_10 == pytest.approx(0.3, abs=0.03)
    assert gate.difference == pytest.approx(gate.candidate_ndcg_at_10 - gate.champion_ndcg_at_10)


@pytest.mark.parametrize("hit", [0.3, 0.5])
def test_one_that_is_better_or_not_shown_to_be_worse_is_accepted(hit: float) -> None:
    random = np.random.default_rng(1)
    assert judge(7, everyone(), of_users(random, hit), of_users(random, 0.3)).verdict == "accepted"


def test_the_same_model_is_accepted_with_no_difference() -> None:
    ranks = of_users(np.random.default_rng(0), 0.3)
    gate = judge(7, everyone(), ranks, ranks)
    assert (gate.verdict, gate.difference, gate.low, gate.high) == ("accepted", 0, 0, 0)


def test_one_user_with_many_events_does_not_decide() -> None:
    """Counted event by event, this difference would be 19 standard errors."""
    theirs = np.where(np.arange(1000) < 300, 0, 10**6)
    ours = np.full(1000, 10**6)
    of_one_and_many = np.concatenate((np.zeros(300, np.int64), 1 + np.arange(700) % (USERS - 1)))
    assert judge(7, of_one_and_many, ours, theirs).verdict == "accepted"


@pytest.mark.parametrize(("events", "users"), [(0, 1), (MIN_EVENTS - 1, MIN_USERS), (MIN_EVENTS, MIN_USERS - 1)])
def test_few_events_or_users_are_not_compared(events: int, users: int) -> None:
    missed, hit = np.full(events, 10**6), np.zeros(events, np.int64)
    gate = judge(7, np.arange(events) % users, missed, hit)
    assert gate.verdict == "uncompared"
    assert f"too few events to compare: {events} of" in gate.reason


def test_the_interval_is_that_of_a_bootstrap_over_users() -> None:
    random = np.random.default_rng(1)
    sizes = random.integers(1, 60, USERS)
    users = np.repeat(np.arange(USERS), sizes)
    values = ndcg(np.where(random.random(len(users)) < random.random(USERS)[users], 2, 99), 10)
    mean, error = clustered_mean(values, users)
    sums = np.bincount(users, weights=values)
    drawn = random.integers(0, USERS, (20_000, USERS))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(means.std(), rel=0.05)


def test_without_clusters_the_error_is_the_usual_one() -> None:
    values = np.random.default_rng(0).random(500)
    mean, error = clustered_mean(values, np.arange(500))
    assert (mean, error) == pytest.approx((values.mean(), values.std(ddof=1) / np.sqrt(500)))


def histories_of(*times: list[int]) -> Histories:
    builder = HistoryBuilder()
    for user, of_user in enumerate(times):
        for time in of_user:
            builder.add(str(user), "x", time)
    return builder.build()


def test_unseen_is_what_comes_from_a_users_first_newer_event_on() -> None:
    histories = histories_of([1, 2, 9, 3], [1, 2, 3, 4], [8, 9])
    found = unseen(histories, Spans(histories.users.begin + 1, histories.users.end), 4)
    assert list(zip(found.begin.tolist(), found.end.tolist(), strict=True)) == [(2, 4), (8, 8), (9, 10)]


def test_an_event_that_claims_to_come_from_the_future_may_have_been_seen() -> None:
    histories = histories_of([1, 99, 9, 3], [1, 99, 2])
    found = unseen(histories, Spans(histories.users.begin + 1, histories.users.end), 4, 20)
    assert list(zip(found.begin.tolist(), found.end.tolist(), strict=True)) == [(2, 4), (7, 7)]


def test_every_event_has_its_owner() -> None:
    histories = histories_of([1, 2, 9], [1], [8, 9])
    assert owners(histories.users, np.arange(6)).tolist() == [0, 0, 0, 1, 2, 2]
