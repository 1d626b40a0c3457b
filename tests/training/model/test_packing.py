import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.model.packing import pack

LENGTHS = st.lists(st.integers(0, 9), max_size=6)


@given(LENGTHS)
def test_every_token_of_every_sequence_is_packed_once(lengths: list[int]) -> None:
    packing = pack(lengths)
    found = sorted(zip(packing.order[packing.lane].tolist(), packing.time.tolist(), strict=True))
    assert found == [(sequence, time) for sequence, length in enumerate(lengths) for time in range(length)]


@given(LENGTHS)
def test_the_tokens_of_a_step_are_contiguous_and_a_prefix_of_the_lanes(lengths: list[int]) -> None:
    packing = pack(lengths)
    for time, size in enumerate(packing.batch_sizes):
        step = slice(packing.offsets[time], packing.offsets[time + 1])
        assert packing.time[step].tolist() == [time] * size
        assert packing.lane[step].tolist() == list(range(size))


@given(LENGTHS, st.integers(0, 10))
def test_earlier_finds_the_token_of_the_same_lane_so_many_steps_before(lengths: list[int], steps: int) -> None:
    packing = pack(lengths)
    later = np.flatnonzero(packing.time >= steps)
    earlier = packing.earlier(steps).numpy()
    assert packing.lane[earlier].tolist() == packing.lane[later].tolist()
    assert packing.time[earlier].tolist() == (packing.time[later] - steps).tolist()


@given(LENGTHS)
def test_last_is_the_final_token_of_each_lane_that_has_one(lengths: list[int]) -> None:
    packing = pack(lengths)
    last = packing.last.numpy()
    assert packing.lane[last].tolist() == list(range(packing.alive))
    assert (packing.time[last] + 1).tolist() == [length for length in packing.lengths.tolist() if length]
