"""A clock that jumps, the worker's or the producers', changes no state."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from schemas import event, state
from schemas.event import Event
from schemas.placement import partition_of
from schemas.state import StateRecord
from stream_app import user_table
from stream_app.broker import Record
from stream_app.store import Store
from tests.stream_app import world as worlds
from tests.stream_app.tiny_model import TinyModel
from tests.stream_app.world import PARTITIONS, Worker, World

DAY_S = 24 * 3600
NOW_S = 1_700_000_000
EVENTS = 60
ITEMS = [f"i{n}" for n in range(8)]
STEADY = [NOW_S + number for number in range(EVENTS)]
JUMPING = [NOW_S + number + (-1) ** number * number * DAY_S for number in range(EVENTS)]


@pytest.fixture(autouse=True)
def _plain_store_afterwards() -> Iterator[None]:
    yield
    user_table.Store = Store  # type: ignore[misc]


def records_after(
    directory: Path, event_times_s: Sequence[int], clock: Callable[[], float]
) -> dict[bytes, StateRecord]:
    """The users' records after some rounds over events of these times, under this wall clock."""
    world = World(directory)
    worlds.install(world)
    worker = world.workers["a"] = Worker(world, "a")
    worker.engine._clock = clock
    worker.engine.swap(TinyModel(1, ITEMS).load())
    worker.own(set(range(PARTITIONS)))
    for number, time_s in enumerate(event_times_s):
        user_id = f"user-{number % 4}"
        log = world.log[partition_of(user_id.encode(), PARTITIONS)]
        value = event.encode(Event(user_id, ITEMS[number % 7], 1000 * time_s))
        log.append(Record(len(log), user_id.encode(), value, 1000 * time_s))
        if number % 7 == 0:
            worker.work(5)
    worker.work(EVENTS)
    worker.leave()
    return {
        key: state.decode(value) for partition in range(PARTITIONS) for key, value in world.newest(partition).items()
    }


def test_no_record_depends_on_the_wall_clock(tmp_path: Path):
    times = iter(JUMPING)
    jumping = records_after(tmp_path / "a", STEADY, lambda: next(times))
    assert len(jumping) == 4
    assert jumping == records_after(tmp_path / "b", STEADY, lambda: NOW_S)


def test_events_count_in_the_order_of_the_log_whatever_their_times(tmp_path: Path):
    jumping = records_after(tmp_path / "a", JUMPING, lambda: NOW_S)
    steady = records_after(tmp_path / "b", STEADY, lambda: NOW_S)
    untimed = [
        {key: record._replace(times=b"", last_time_ms=0) for key, record in records.items()}
        for records in (jumping, steady)
    ]
    assert jumping != steady
    assert untimed[0] == untimed[1]
