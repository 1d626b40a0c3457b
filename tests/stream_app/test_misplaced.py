"""Records of a producer with another partitioner: their user's state is in another partition."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import event
from schemas.event import Event
from schemas.placement import misplaced, partition_of
from stream_app.broker import Record
from stream_app.intake import stray_letters, take_in
from tests.stream_app.tiny_model import TinyModel
from tests.stream_app.world import PARTITIONS, Worker, World

RIGHT = partition_of(b"u", PARTITIONS)
WRONG = 1 - RIGHT


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    world = World(tmp_path)
    worker = world.workers["a"] = Worker(world, "a")
    worker.engine.swap(TinyModel(1, ["i0", "i1", "i2", "i3"]).load())
    worker.own({0, 1})
    yield worker
    worker.engine.close()


def misplace(world: World, item_id: str | None) -> None:
    log = world.log[WRONG]
    value = None if item_id is None else event.encode(Event("u", item_id, 5))
    log.append(Record(len(log), b"u", value, 5))


def test_events_and_tombstones_in_another_partition_are_dead_letters_and_leave_the_state_whole(worker: Worker):
    worker.world.produce("u", "i0")
    misplace(worker.world, "i1")
    misplace(worker.world, None)
    worker.work(50)
    misplace(worker.world, "i2")
    worker.world.produce("u", "i3")
    worker.work(50)
    assert worker.world.dead_letters == {RIGHT: [], WRONG: [0, 1, 2]}
    assert worker.engine.counters.dead_letters["partition"] == 3
    assert worker.engine.counters.events == 2
    assert b"u" not in worker.world.newest(WRONG)
    assert [found and found.history_length for _, found in worker.world.lists[RIGHT]] == [1, 2]
    assert worker.world.lists[WRONG] == []


def test_who_stands_in_another_partition_since_before_is_served_there(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    misplace(worker.world, "i1")
    with monkeypatch.context() as before:
        before.setattr("stream_app.engine.misplaced", lambda *_: None)
        worker.work(50)
    misplace(worker.world, "i2")
    worker.work(50)
    assert worker.world.dead_letters[WRONG] == []
    assert worker.engine.counters.events == 2


def test_the_letter_of_a_stray_says_where_it_belongs_and_a_broken_record_of_it_says_what_is_broken():
    records = [Record(0, b"u", event.encode(Event("u", "i0", 5)), 5), Record(1, b"u", b"\xc1", 5)]
    wrong = misplaced(b"u", WRONG, PARTITIONS)
    assert wrong is not None
    intake = take_in(records, 0)
    (letter,) = stray_letters(records, intake, {b"u": wrong})
    assert (letter.record, letter.field) == (records[0], "partition")
    assert letter.reason.startswith(f"partition: must be {RIGHT} for this key, by murmur2")
    assert [broken.field for broken in intake.dead_letters] == ["value"]
