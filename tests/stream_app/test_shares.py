from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas import state
from schemas.state import StateRecord
from stream_app import shares as shares_module
from stream_app.advance import Advanced, Change, advance
from stream_app.shares import share_out
from tests.stream_app.tiny_model import TinyModel
from tests.stream_app.world import Worker, World

WINDOW = 4


def user(events: int) -> Advanced:
    changes = [Change(offset, 0, offset.to_bytes(8, "little")) for offset in range(events)]
    return advance(StateRecord(), changes, WINDOW, rebase=False)


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 5))
def test_every_user_is_in_one_share(events: list[int], threads: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares_module, "_SMALLEST_SHARE", 8)
        shares = share_out([user(count) for count in events], threads)
    assert sorted(index for share in shares for index in share) == list(range(len(events)))
    assert len(shares) <= threads
    assert all(shares)


def test_a_small_round_stays_whole():
    assert len(share_out([user(3) for _ in range(10)], 4)) == 1


def test_shares_hold_about_the_same_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shares_module, "_SMALLEST_SHARE", 8)
    shares = share_out([user(1 + index % 3) for index in range(300)], 3)
    assert [len(share) for share in shares] == [67, 83, 150]


def test_several_threads_send_what_one_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shares_module, "_SMALLEST_SHARE", 8)
    items = [f"i{n}" for n in range(8)]
    random = np.random.default_rng(0)
    traffic = [(f"u{random.zipf(1.5) % 40}", items[random.integers(8)]) for _ in range(400)]

    def sent(threads: int) -> tuple[set[tuple[bytes, int, tuple[str, ...]]], dict[bytes, NDArray[np.float32]]]:
        world = World(tmp_path / str(threads))
        worker = world.workers["a"] = Worker(world, "a", threads=threads)
        worker.engine.swap(TinyModel(1, items).load())
        worker.own({0, 1})
        for name, item in traffic:
            world.produce(name, item)
        worker.work(400)
        worker.engine.close()
        lists = {
            (key, found.offset, tuple(item_id for item_id, _ in found.items))
            for sent in world.lists.values()
            for key, found in sent
            if found is not None
        }
        newest = {**world.newest(0), **world.newest(1)}
        return lists, {key: np.frombuffer(state.decode(value).state, "<f4") for key, value in newest.items()}

    (one_lists, one_states), (three_lists, three_states) = sent(1), sent(3)
    assert three_lists == one_lists
    assert len(one_lists) == len(traffic)
    assert three_states.keys() == one_states.keys()
    for key, floats in one_states.items():
        np.testing.assert_allclose(three_states[key], floats, atol=1e-6)
