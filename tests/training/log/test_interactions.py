import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from kafka import TopicPartition
from structlog.testing import capture_logs

from ops.kafka import LocalKafka
from ops.topics import admin, create
from schemas.event import Event, encode
from schemas.kafka import describe_topics, end_offsets, producer_config
from schemas.settings import Refused, Settings
from schemas.topics import topics
from tests.training.log.test_columns import assert_same
from training.log.archive import Archive
from training.log.histories import Histories
from training.log.interactions import _Source, open_archive, read_file, read_interactions

USERS, EVENTS = 8, 10

READ = """
import sys
from training.log import archive
from training.log.interactions import read_interactions
from schemas.settings import Settings
archive.WINDOW = 8
broker, topic, url, topic_id = sys.argv[1:]
settings = Settings(broker=broker, interactions=topic)
read_interactions(settings, archive=archive.Archive(url, topic, topic_id))
"""


@pytest.fixture(scope="module")
def kafka() -> Iterator[LocalKafka]:
    with LocalKafka() as broker:
        yield broker


@pytest.fixture
def settings(kafka: LocalKafka) -> Settings:
    """A topic of events for each test."""
    made = Settings(broker=kafka.bootstrap, partitions=2, interactions=f"events-{uuid4().hex[:8]}")
    create_events(made)
    return made


@pytest.fixture
def archive(settings: Settings, tmp_path: Path) -> Archive:
    return opened(settings, tmp_path)


def create_events(settings: Settings) -> None:
    with admin(settings.broker) as client:
        create(client, [topic for topic in topics(settings) if topic.name == settings.interactions])


def opened(settings: Settings, directory: Path) -> Archive:
    archive = open_archive(settings.model_copy(update={"archive": str(directory)}))
    assert archive is not None
    return archive


def send(settings: Settings, *events: Event | tuple[str, bytes | None]) -> None:
    """Events, or keys with values."""
    producer = Producer(producer_config(settings))
    for event in events:
        key, value = (event.user_id, encode(event)) if isinstance(event, Event) else event
        producer.produce(settings.interactions, value, key=key)
    assert producer.flush(30) == 0


def ring(since: int = 0) -> list[Event]:
    turns = range(since, since + EVENTS)
    return [Event(f"u{user}", f"i{(user + time) % 7}", 1000 * time) for time in turns for user in range(USERS)]


def delete_records(settings: Settings) -> None:
    """As retention does, up to the end of the log."""
    ends = end_offsets(settings, settings.interactions)
    with admin(settings.broker) as client:
        client.delete_records({TopicPartition(settings.interactions, part): end for part, end in ends.items()})


def items_of(histories: Histories) -> list[list[str]]:
    spans = zip(histories.users.begin, histories.users.end, strict=True)
    return [[histories.item_ids[row] for row in histories.items[begin:end]] for begin, end in spans]


def test_a_file_is_read_in_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "a.inter"
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\nu\tlate\t2.5\nv\tx\t7\nu\tearly\t1\n")
    reading = read_file(path)
    assert reading.histories.items.tolist() == [0, 1, 2]
    assert reading.histories.item_ids == ["early", "late", "x"]
    assert reading.histories.timestamps_ms.tolist() == [1000, 2500, 7000]
    assert (reading.records, reading.offsets, reading.busiest) == (3, {}, "u")


def test_an_archive_changes_nothing_of_what_is_read(settings: Settings, archive: Archive) -> None:
    send(settings, *ring(), ("u1", None), ("u2", b"{"), *ring(since=5), *[Event("u3", "x", 1, event_id="e")] * 2)
    plain, archived = read_interactions(settings), read_interactions(settings, archive=archive)
    assert_same(plain.histories, archived.histories)
    for reading in (plain, archived):
        assert (reading.records, reading.malformed, reading.forgotten) == (2 * USERS * EVENTS + 4, 1, 1)
        assert (reading.repeated, reading.lost, reading.busiest) == (1, 0, "u3")
        assert sum(reading.offsets.values()) == reading.records


def test_the_second_reading_reads_only_what_is_new(settings: Settings, archive: Archive) -> None:
    send(settings, *ring())
    assert read_interactions(settings, archive=archive).records == USERS * EVENTS
    send(settings, *ring(since=EVENTS), ("u1", b"{"))
    told: list[float] = []
    second = read_interactions(settings, told.append, archive)
    assert (second.records, second.malformed, told[-1]) == (USERS * EVENTS + 1, 1, 1)
    assert_same(second.histories, read_interactions(settings).histories)
    third = read_interactions(settings, archive=archive)
    assert third.records == 0
    assert_same(third.histories, second.histories)


def test_the_archive_outlives_the_retention_of_the_topic(settings: Settings, archive: Archive) -> None:
    send(settings, *ring())
    first = read_interactions(settings, archive=archive)
    delete_records(settings)
    send(settings, Event("u0", "new", 1))
    with capture_logs() as logs:
        second = read_interactions(settings, archive=archive)
    assert (second.records, second.lost, logs) == (1, 0, [])
    kept, more = items_of(first.histories), items_of(second.histories)
    assert [after[: len(before)] for before, after in zip(kept, more, strict=True)] == kept
    assert sum(map(len, more)) == USERS * EVENTS + 1
    assert len(read_interactions(settings).histories.items) == 1


def test_what_retention_took_before_it_was_archived_is_counted_and_told_once(
    settings: Settings, archive: Archive
) -> None:
    send(settings, *ring())
    read_interactions(settings, archive=archive)
    send(settings, *ring())
    delete_records(settings)
    send(settings, *ring())
    with capture_logs() as logs:
        reading = read_interactions(settings, archive=archive)
    assert (reading.records, reading.lost) == (USERS * EVENTS, USERS * EVENTS)
    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert sum(log["offsets"] for log in warnings) == USERS * EVENTS
    assert read_interactions(settings, archive=archive).lost == 0


def test_what_retention_takes_while_it_is_read_is_counted_too(
    settings: Settings, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, *ring())
    read_interactions(settings, archive=archive)
    send(settings, *ring())
    bounds, late = _Source.bounds, iter([delete_records])

    def bounds_before(source: _Source, partition: int) -> tuple[int, int]:
        found = bounds(source, partition)
        next(late, lambda _: None)(settings)
        return found

    monkeypatch.setattr(_Source, "bounds", bounds_before)
    reading = read_interactions(settings, archive=archive)
    assert (reading.records, reading.lost) == (0, USERS * EVENTS)
    assert len(reading.histories.items) == USERS * EVENTS


def test_who_is_forgotten_leaves_the_files_and_the_training_set(settings: Settings, archive: Archive) -> None:
    send(settings, *ring(), Event("gone", "secret", 1), Event("gone", "secret", 2))
    read_interactions(settings, archive=archive)
    assert archive.events_of("gone") == 2
    send(settings, ("gone", None))
    reading = read_interactions(settings, archive=archive)
    assert (reading.forgotten, archive.events_of("gone")) == (1, 0)
    assert "secret" not in reading.histories.item_ids
    send(settings, Event("gone", "back", 3))
    reading = read_interactions(settings, archive=archive)
    assert (reading.forgotten, archive.events_of("gone")) == (0, 1)
    assert "back" in reading.histories.item_ids


def test_who_is_forgotten_while_another_job_merges_does_not_come_back(
    settings: Settings, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, *ring(), Event("gone", "secret", 1))
    read_interactions(settings, archive=archive)
    send(settings, *ring(since=EVENTS), Event("gone", "secret", 2))
    write, merged = archive.write, []

    def write_late(partition: int, begin: int, end: int, table: pa.Table) -> None:
        if begin == 0 and "gone" in table["user_id"].to_pylist():
            send(settings, ("gone", None))
            other = opened(settings, tmp_path)
            read_interactions(settings, archive=other)
            merged.append(other.events_of("gone"))
        write(partition, begin, end, table)

    monkeypatch.setattr(archive, "write", write_late)
    read_interactions(settings, archive=archive)
    assert merged == [0]
    assert archive.events_of("gone") == 0


def test_a_topic_made_again_is_not_mixed_up_with_the_old_one(settings: Settings, tmp_path: Path) -> None:
    old = opened(settings, tmp_path)
    send(settings, *ring())
    read_interactions(settings, archive=old)
    with admin(settings.broker) as client:
        client.delete_topics([settings.interactions])
        while settings.interactions in client.list_topics():
            pass
    create_events(settings)
    send(settings, Event("u0", "new", 1))
    new = opened(settings, tmp_path)
    assert items_of(read_interactions(settings, archive=new).histories) == [["new"]]
    assert old.events_of("u0") == new.events_of("u0") == EVENTS + 1


def test_a_log_that_ends_before_its_archive_is_refused(settings: Settings, archive: Archive) -> None:
    send(settings, *ring())
    read_interactions(settings, archive=archive)
    ends = end_offsets(settings, settings.interactions)
    archive.write(1, ends[1], ends[1] + 1, archive.read(1, 0, {}))
    with pytest.raises(Refused, match=rf"partition 1 of the log ends at offset {ends[1]} and its archive at .*; move "):
        read_interactions(settings, archive=archive)


def test_a_file_that_was_removed_is_read_again_when_nothing_is_new(
    settings: Settings, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.log.archive.WINDOW", 16)
    send(settings, *ring())
    whole = read_interactions(settings, archive=archive)
    partition = max((0, 1), key=archive.end)
    Path(archive.pieces(partition)[0].path).unlink()
    shares: list[float] = []
    again = read_interactions(settings, shares.append, archive)
    assert_same(again.histories, whole.histories)
    assert shares
    assert all(0 <= share <= 1 for share in shares)


def test_a_killed_reading_leaves_a_readable_archive_and_loses_nothing(settings: Settings, tmp_path: Path) -> None:
    send(settings, *(event for turn in range(20) for event in ring(since=turn)))
    archive = opened(settings, tmp_path)
    topic_id = describe_topics(settings, [settings.interactions])[settings.interactions].topic_id
    arguments = [settings.broker, settings.interactions, str(tmp_path), topic_id]
    with subprocess.Popen([sys.executable, "-c", READ, *arguments]) as reading:
        while not archive.pieces(0) and reading.poll() is None:
            pass
        reading.kill()
    assert reading.returncode == -signal.SIGKILL
    kept = archive.end(0)
    assert 0 < kept < end_offsets(settings, settings.interactions)[0]
    read_interactions(settings, archive=archive)
    assert_same(
        read_interactions(settings, archive=archive).histories,
        read_interactions(settings).histories,
    )
