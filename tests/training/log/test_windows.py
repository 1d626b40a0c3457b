import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.log.histories import Spans
from training.log.windows import collate, cut, shuffled


def users(lengths: list[int]) -> Spans:
    ends = np.cumsum(lengths, dtype=np.int64)
    return Spans(ends - lengths, ends)


@given(st.lists(st.integers(0, 25), min_size=1, max_size=5), st.integers(1, 8), st.integers(0, 99))
def test_every_event_but_the_first_of_a_user_is_a_target_exactly_once(
    lengths: list[int], window: int, seed: int
) -> None:
    histories = users(lengths)
    windows = cut(histories, window, np.random.default_rng(seed))
    assert (windows.lengths >= 2).all()
    assert (windows.lengths <= window + 1).all()
    targets = [event for begin, end in zip(windows.begin, windows.end, strict=True) for event in range(begin + 1, end)]
    expected = [
        event for begin, end in zip(histories.begin, histories.end, strict=True) for event in range(begin + 1, end)
    ]
    assert sorted(targets) == expected


def test_a_history_that_fits_is_one_window() -> None:
    windows = cut(users([6]), 5, np.random.default_rng(0))
    assert (windows.begin.tolist(), windows.end.tolist()) == ([0], [6])


def test_a_longer_history_is_cut_elsewhere_in_other_epochs() -> None:
    random = np.random.default_rng(0)
    assert len({tuple(cut(users([50]), 10, random).begin) for _ in range(20)}) > 5


@given(st.integers(1, 20), st.integers(1, 7))
def test_an_epoch_has_every_window_in_one_batch(count: int, batch: int) -> None:
    windows = users([3] * count)
    batches = list(shuffled(windows, batch, np.random.default_rng(0)))
    assert sorted(begin for span in batches for begin in span.begin) == windows.begin.tolist()
    assert all(len(span) == batch for span in batches[:-1])


def test_each_input_has_the_next_event_as_its_target() -> None:
    items = np.array([7, 3, 5, 9, 1], dtype=np.int32)
    batch = collate(items, Spans(np.array([0, 3]), np.array([3, 5])))
    found = set(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True))
    assert found == {(7, 3), (3, 5), (9, 1)}
    assert items[batch.positions].tolist() == batch.inputs.tolist()
