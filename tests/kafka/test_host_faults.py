"""Real workers on a real broker, killed, stopped and broken: afterwards the topics must balance."""

import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from ops.kafka import LocalKafka
from ops.topics import admin, create
from schemas import event
from schemas.event import Event
from schemas.kafka import producer_config
from schemas.settings import FAILED, REFUSED, Settings
from schemas.topics import topics
from tests.kafka.balance import assert_balanced, committed, done, end_of, ends, is_caught_up, read_topic, repeated_lists
from tests.kafka.stream import Stream, publish_model, send, send_events
from tests.kafka.worker_process import WorkerProcess, wait_until

OWNS = "owns partitions"


@pytest.fixture
def served(created: Settings, tmp_path: Path) -> Settings:
    """Topics with a model on them, so that every event must be answered."""
    publish_model(created, tmp_path, version=1)
    return created


def progressed(settings: Settings) -> Callable[[], bool]:
    """Whether some hundred events more were committed."""
    least = done(settings) + 300
    return lambda: done(settings) > least


def test_nothing_is_lost_or_counted_twice_over_kills(served: Settings, tmp_path: Path) -> None:
    with Stream(served):
        for _ in range(3):
            with WorkerProcess(served, tmp_path) as worker:
                worker.wait_for(OWNS)
                wait_until(progressed(served), "progress")
                worker.kill()
    with WorkerProcess(served, tmp_path):
        wait_until(lambda: is_caught_up(served), "everything committed")
    assert_balanced(served)


def test_a_clean_stop_commits_the_running_round_and_leaves_nothing_to_do_again(
    served: Settings, tmp_path: Path
) -> None:
    processed = 0
    with Stream(served):
        for _ in range(2):
            # nothing is committed but by the stop
            with WorkerProcess(served, tmp_path, commit_interval_s=3600) as worker:
                wait_until(lambda least=processed + 300: end_of(served, served.recommendations) > least, "lists")
                assert worker.stop() == 0
                processed += worker.wait_for("stopped")["events"]
                assert done(served) == processed
    with WorkerProcess(served, tmp_path) as worker:
        wait_until(lambda: is_caught_up(served), "everything committed")
        assert worker.stop() == 0
    assert repeated_lists(served) == 0
    assert_balanced(served)


def test_a_failing_round_ends_the_process_with_its_batch_uncommitted(served: Settings, tmp_path: Path) -> None:
    send_events(served, 500)
    with WorkerProcess(served, tmp_path, program=("-m", "tests.kafka.failing_worker")) as worker:
        wait_until(lambda: is_caught_up(served), "everything committed")
        send(served, served.interactions, ("u1", event.encode(Event("u1", "boom", 1))))
        assert worker.wait() == FAILED
    behind = {partition: end - committed(served)[partition] for partition, end in ends(served).items()}
    assert sorted(behind.values()) == [0, 0, 0, 1]


def test_a_lone_event_at_offset_zero_does_not_hold_up_later_commits(served: Settings, tmp_path: Path) -> None:
    # Stock Faust's commit stands still for ever here.
    with WorkerProcess(served, tmp_path):
        send(served, served.interactions, *((f"u{n}", event.encode(Event(f"u{n}", "i1", 1))) for n in range(10)))
        wait_until(lambda: is_caught_up(served), "the lone events committed")
        send_events(served, 2000)
        wait_until(lambda: is_caught_up(served), "the burst committed")
    assert_balanced(served)


def test_two_workers_share_the_partitions_and_one_takes_over(served: Settings, tmp_path: Path) -> None:
    with Stream(served), WorkerProcess(served, tmp_path, worker_id="a") as first:
        assert first.wait_for(OWNS)["partitions"] == [0, 1, 2, 3]
        with WorkerProcess(served, tmp_path, worker_id="b") as second:
            owned = first.wait_for(OWNS, times=2)["partitions"] + second.wait_for(OWNS)["partitions"]
            assert sorted(owned) == [0, 1, 2, 3]
            second.kill()
        assert first.wait_for(OWNS, times=3)["partitions"] == [0, 1, 2, 3]
    with WorkerProcess(served, tmp_path, worker_id="a"):
        wait_until(lambda: is_caught_up(served), "everything committed")
    assert_balanced(served)


def test_the_older_of_two_workers_with_one_id_says_so_and_ends(served: Settings, tmp_path: Path) -> None:
    with WorkerProcess(served, tmp_path) as older:
        older.wait_for(OWNS)
        with WorkerProcess(served, tmp_path / "elsewhere", artefact_store=tmp_path / "artefacts") as newer:
            assert older.wait() == FAILED
            assert "under the same worker id" in older.wait_for("the worker fails and ends")["error"]
            send_events(served, 100)
            wait_until(lambda: is_caught_up(served), "the newer one works")
            assert newer.stop() == 0


def test_a_worker_that_was_frozen_past_its_session_ends_without_harm(served: Settings, tmp_path: Path) -> None:
    with Stream(served), WorkerProcess(served, tmp_path, worker_id="a") as zombie:
        zombie.wait_for(OWNS)
        with WorkerProcess(served, tmp_path, worker_id="b") as heir:
            heir.wait_for(OWNS)
            zombie.send(signal.SIGSTOP)
            assert heir.wait_for(OWNS, times=2)["partitions"] == [0, 1, 2, 3]
            zombie.send(signal.SIGCONT)
            assert zombie.wait() == FAILED
    with WorkerProcess(served, tmp_path, worker_id="b"):
        wait_until(lambda: is_caught_up(served), "everything committed")
    assert_balanced(served)


@pytest.fixture
def own_kafka() -> Iterator[LocalKafka]:
    """A broker that no other test uses."""
    with LocalKafka() as broker:
        yield broker


def test_a_worker_outlives_its_broker(own_kafka: LocalKafka, settings: Settings, tmp_path: Path) -> None:
    mine = settings.model_copy(update={"broker": own_kafka.bootstrap})
    with admin(mine.broker) as client:
        create(client, topics(mine))
    publish_model(mine, tmp_path, version=1)
    with WorkerProcess(mine, tmp_path) as worker:
        send_events(mine, 500)
        wait_until(lambda: is_caught_up(mine), "everything committed")
        own_kafka.kill()
        own_kafka.start()
        send_events(mine, 500)
        wait_until(lambda: is_caught_up(mine), "the same process goes on")
        assert worker.stop() == 0
    assert_balanced(mine)


def expire(settings: Settings, begins: Mapping[int, int]) -> None:
    """Remove events as retention does: the log of each partition begins at an offset."""
    wanted = [TopicPartition(settings.interactions, partition, offset) for partition, offset in begins.items()]
    client = AdminClient({"bootstrap.servers": settings.broker})  # its results come only while it lives
    for removed in client.delete_records(wanted).values():
        removed.result(30)


def test_events_that_expired_unread_stop_the_worker_unless_a_setting_says_otherwise(
    served: Settings, tmp_path: Path
) -> None:
    send_events(served, 200)
    with WorkerProcess(served, tmp_path) as worker:
        wait_until(lambda: is_caught_up(served), "everything committed")
        assert worker.stop() == 0
    before = committed(served)
    send_events(served, 200)
    begins = {partition: offset + 3 for partition, offset in before.items()}
    expire(served, begins)
    with WorkerProcess(served, tmp_path) as worker:
        assert worker.wait() == REFUSED
        refusal = worker.output.splitlines()[-1]
    assert "--on-lost-events continue" in refusal
    assert "exc_type" not in worker.output, "a stack helps nobody here"
    told = [f"[{p}]: the committed offset is {before[p]} but the log begins at {begins[p]}," in refusal for p in before]
    assert sum(told) == 1
    assert committed(served) == before
    with WorkerProcess(served, tmp_path, on_lost_events="continue") as worker:
        wait_until(lambda: is_caught_up(served), "everything committed")
        assert worker.stop() == 0
        assert worker.wait_for("stopped")["lost"] == 3 * served.partitions
        assert {line["log_begins"] for line in worker.logged("events expired unread")} == set(begins.values())


def test_a_loss_is_counted_once_also_when_nothing_is_left_to_read(served: Settings, tmp_path: Path) -> None:
    send_events(served, 200)
    with WorkerProcess(served, tmp_path) as worker:
        wait_until(lambda: is_caught_up(served), "everything committed")
        assert worker.stop() == 0
    send_events(served, 200)
    expire(served, ends(served))
    with WorkerProcess(served, tmp_path, on_lost_events="continue") as worker:
        wait_until(lambda: is_caught_up(served), "everything committed")
        assert worker.stop() == 0
        assert worker.wait_for("stopped")["lost"] == 200
    with WorkerProcess(served, tmp_path) as worker:
        worker.wait_for(OWNS)
        assert worker.stop() == 0


def test_records_that_cannot_be_read_do_not_hold_up_the_others(served: Settings, tmp_path: Path) -> None:
    send(served, served.interactions, ("u1", b"\xc1 no event"))
    send_events(served, 50)
    with WorkerProcess(served, tmp_path):
        wait_until(lambda: is_caught_up(served), "everything committed")
    assert_balanced(served)
    assert len(read_topic(served, served.dead_letters)) == 1


def test_events_of_an_aborted_transaction_are_not_read(served: Settings, tmp_path: Path) -> None:
    producer = Producer(producer_config(served) | {"transactional.id": served.app, "message.timeout.ms": 30_000})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(served.interactions, key="u1", value=event.encode(Event("u1", "i1", 1)), partition=0)
    producer.flush(60)
    producer.abort_transaction(60)
    send_events(served, 100)
    with WorkerProcess(served, tmp_path):
        wait_until(lambda: is_caught_up(served), "everything committed")
    assert_balanced(served)
