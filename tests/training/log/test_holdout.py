import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.log.histories import Histories, HistoryBuilder, Spans
from training.log.holdout import leave_one_out, newest


def histories_of(*times: list[int]) -> Histories:
    builder = HistoryBuilder()
    for user, of_user in enumerate(times):
        for time in of_user:
            builder.add(str(user), "x", time)
    return builder.build()


def pairs(spans: Spans) -> list[tuple[int, int]]:
    return list(zip(spans.begin.tolist(), spans.end.tolist(), strict=True))


def test_a_time_in_the_future_is_not_new_and_moves_no_cut() -> None:
    histories = histories_of([1, 99, 2, 3], [4, 5, 6, 98], [7, 8, 10])
    assert pairs(newest(histories, 0.4, latest_ms=20).validation) == [(4, 4), (6, 8), (9, 11)]
    assert pairs(newest(histories, 0.1, since_ms=2, latest_ms=20).validation) == [(4, 4), (8, 8), (10, 11)]
    assert newest(histories, 0.4, latest_ms=0).validation.events == 0


def test_leave_one_out_tests_the_last_event_validates_the_one_before_and_spares_short_histories() -> None:
    holdout = leave_one_out(histories_of([1, 2, 3, 4], [1, 2]))
    assert pairs(holdout.train) == [(0, 2), (4, 6)]
    assert pairs(holdout.validation) == [(2, 3), (6, 6)]
    assert pairs(holdout.test) == [(3, 4), (6, 6)]


def test_the_newest_share_is_held_out_whoever_it_belongs_to() -> None:
    holdout = newest(histories_of([1, 2, 9], [3, 4, 5, 6], [7, 8, 10]), 0.4)
    assert pairs(holdout.train) == [(0, 2), (3, 7), (7, 7)]
    assert pairs(holdout.validation) == [(2, 3), (7, 7), (8, 10)]


def test_an_old_event_that_arrived_after_a_new_one_is_held_out_with_it() -> None:
    holdout = newest(histories_of([1, 9, 2], [1, 2, 3]), 0.2)
    assert pairs(holdout.train) == [(0, 1), (3, 6)]
    assert pairs(holdout.validation) == [(1, 3), (6, 6)]


def test_after_a_time_no_more_than_the_newer_half_is_held_out() -> None:
    histories = histories_of([1, 2, 9], [3, 4, 5, 6], [7, 8, 10])
    assert pairs(newest(histories, 0.9, since_ms=6).validation) == [(2, 3), (7, 7), (9, 10)]
    assert pairs(newest(histories, 0.1, since_ms=2).validation) == pairs(newest(histories, 0.1).validation)
    assert pairs(newest(histories, 0.4, since_ms=10).validation) == pairs(newest(histories, 0.4).validation)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_to_learn_from_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="held-out share"):
        newest(histories_of([1]), share)


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9), min_size=1, max_size=5), st.floats(0, 0.99))
def test_nothing_learned_from_is_newer_than_the_cut_and_every_other_event_but_a_first_is_held_out(
    times: list[list[int]], share: float
) -> None:
    histories = histories_of(*times)
    holdout = newest(histories, share)
    stamps = histories.timestamps_ms
    cut = np.quantile(stamps, 1 - share, method="lower")
    for user, (begin, end) in enumerate(pairs(histories.users)):
        learned, held = (pairs(spans)[user] for spans in (holdout.train, holdout.validation))
        assert learned[0] == begin
        assert held[1] == end
        assert (stamps[slice(*learned)] <= cut).all()
        assert held[0] == max(learned[1], min(begin + 1, end))


def test_equal_timestamps_hold_out_nothing() -> None:
    assert newest(histories_of([5, 5], [5]), 0.5).validation.events == 0
