from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import event
from schemas.item import item_hash
from stream_app.broker import BrokerAway
from stream_app.engine import RoundFailed
from tests.stream_app.tiny_model import TinyModel
from tests.stream_app.world import Worker, World

ITEMS = [f"i{n}" for n in range(8)]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    world = World(tmp_path)
    worker = world.workers["a"] = Worker(world, "a")
    worker.own({0, 1})
    yield worker
    worker.engine.close()


def listed(worker: Worker) -> list[list[str]]:
    """The items of all lists that were sent, one after the other."""
    sent = [found for lists in worker.world.lists.values() for _, found in lists]
    return [[item_id for item_id, _ in found.items] for found in sent if found is not None]


def test_without_a_model_events_are_kept_and_no_lists_are_sent(worker: Worker):
    worker.world.produce("u", "i0")
    worker.work(50)
    assert worker.engine.counters.events == 1
    assert listed(worker) == []


def test_a_model_that_comes_later_ranks_what_was_kept_before(worker: Worker):
    model = TinyModel(1, ITEMS)
    worker.world.produce("u", "i0")
    worker.work(50)
    worker.engine.swap(model.load())
    worker.world.produce("u", "i1")
    worker.work(50)
    assert listed(worker) == [model.top([item_hash("i0"), item_hash("i1")], 3)]


def test_an_unavailable_item_stays_off_the_lists_of_the_next_model(worker: Worker):
    first, second = TinyModel(1, ITEMS), TinyModel(2, ITEMS)
    best = second.top([item_hash("i0")], 3)[0]
    worker.engine.swap(first.load())
    worker.engine.set_unavailable([item_hash(best)])
    worker.engine.swap(second.load())
    worker.world.produce("u", "i0")
    worker.work(50)
    assert best not in listed(worker)[0]


def swap_and_go_on(worker: Worker) -> list[int]:
    """The models of three users' last lists: they had events before the swap and have one more after it."""
    worker.engine.swap(TinyModel(1, ITEMS).load())
    for user in "uvw":
        for item in ITEMS[:4]:
            worker.world.produce(user, item)
    worker.work(50)
    worker.engine.swap(TinyModel(2, ITEMS).load())
    for user in "uvw":
        worker.world.produce(user, "i4")
    worker.work(50)
    last = {key: found.model for lists in worker.world.lists.values() for key, found in lists if found is not None}
    return sorted(last.values())


def test_the_previous_model_goes_on_with_users_whom_the_walk_has_not_moved_yet(worker: Worker):
    assert swap_and_go_on(worker) == [1, 1, 1]
    assert worker.engine.counters.rebased == 0


def test_without_a_walk_states_of_the_previous_model_wait_when_a_round_has_no_steps_left(tmp_path: Path):
    world = World(tmp_path)
    worker = world.workers["a"] = Worker(world, "a", rebase_window_days=0)
    worker.own({0, 1})
    assert swap_and_go_on(worker) == [1, 1, 2]  # a round's budget is one history
    assert worker.engine.counters.rebased == 1
    worker.engine.close()


def test_a_broker_that_does_not_answer_is_asked_again_later(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    def away(partition: int) -> tuple[int, int]:
        raise BrokerAway(f"changelog[{partition}]: no answer")

    with monkeypatch.context() as outage:
        outage.setattr(worker.engine._broker, "changelog_range", away)
        worker.engine.check_idle()
    worker.engine.check_idle()
    assert worker.engine.partitions == [0, 1]


def test_a_record_that_fails_is_named_with_the_setting_that_puts_it_aside(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    def decode(value: bytes, key: bytes | None, timestamp_ms: int) -> event.Event:
        if b"i3" in value:
            raise ZeroDivisionError("a defect")
        return event.decode(value, key, timestamp_ms)

    monkeypatch.setattr(worker.engine, "_decode", decode)
    for item_id in ("i1", "i2", "i3", "i4"):
        worker.world.produce("u", item_id)
    [partition] = [partition for partition, log in worker.world.log.items() if log]
    with pytest.raises(RoundFailed, match=rf"record {partition}:2 .*a defect.*--skip-records {partition}:2 "):
        worker.work(50)
    assert worker.engine.counters.events == 0
    assert worker.world.committed[partition] == 0


def test_a_failure_of_no_single_record_is_told_as_it_is(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    def send(_outgoing: object) -> None:
        raise ConnectionError("no answer")

    monkeypatch.setattr(worker.engine._broker, "send", send)
    worker.world.produce("u", "i1")
    with pytest.raises(ConnectionError):
        worker.work(50)
