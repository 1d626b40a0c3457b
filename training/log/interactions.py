"""The training set: the topic of events, up to the end offsets seen at the start, or a file in its stead."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import structlog
from confluent_kafka import Consumer, KafkaException

from schemas import inter_file
from schemas.kafka import consumer_config, describe_topics, end_offsets, read_range, watermarks
from schemas.settings import Refused, Settings
from training.log.archive import Archive
from training.log.columns import SCHEMA, decoded, forgotten, gather, living
from training.log.histories import Histories, HistoryBuilder

log = structlog.get_logger()


@dataclass(frozen=True)
class Reading:
    """What a reading of the log found."""

    histories: Histories
    offsets: dict[str, int]
    """For each partition, the first offset that was not read."""
    records: int
    """Read from the log; what the archive had comes on top."""
    malformed: int
    """Of these, records that break the event contract; the worker has dead-lettered them."""
    repeated: int
    """Events that repeat an event id of their user."""
    forgotten: int
    """Tombstones among the records."""
    lost: int = 0
    """Offsets that the log no longer had when they were to be archived."""
    busiest: str = ""
    """The user with the most events."""


def read_file(path: Path) -> Reading:
    """Read a RecBole `.inter` file as if it were the log, its events in the order of time.

    Raises:
        Refused: the file cannot be read, or is malformed.
    """
    builder, of_user = HistoryBuilder(), Counter[str]()
    for event in inter_file.read_interactions(path).events():
        builder.add(event.user_id, event.item_id, event.timestamp_ms)
        of_user[event.user_id] += 1
    busiest = max(of_user, key=lambda user: of_user[user], default="")
    return Reading(
        builder.build(), offsets={}, records=len(builder), malformed=0, repeated=0, forgotten=0, busiest=busiest
    )


def open_archive(settings: Settings) -> Archive | None:
    """The archive of the topic of events as it is now, if the settings want one.

    Raises:
        KafkaException: the cluster cannot be reached, or the topic does not exist.
        Refused: there is no such file system.
    """
    if not settings.archive:
        return None
    topic = settings.interactions
    return Archive(settings.archive, topic, describe_topics(settings, [topic])[topic].topic_id)


def read_interactions(
    settings: Settings,
    tell: Callable[[float], None] = lambda _: None,
    archive: Archive | None = None,
    until: Mapping[str, int] | None = None,
) -> Reading:
    """Read the whole log as it is now, or with an archive what that lacks; `tell` is told the share, 0 to 1.

    With `until`, only what has a lower offset than that of its partition.

    Raises:
        KafkaException: the cluster cannot be reached, or the topic does not exist.
        TimeoutError: a partition stopped giving records.
        Refused: the log ends before the archive.
        Malformed: a file of the archive is damaged.
        OSError: the archive cannot be read or written.
    """
    ends = end_offsets(settings, settings.interactions)
    ends = {partition: min(end, (until or {}).get(str(partition), end)) for partition, end in ends.items()}
    source = _Source(settings, ends, tell, archive)
    try:
        gathered = gather(_kept(source, ends) if archive is None else _archived(source, ends, archive))
    finally:
        source.close()
    return Reading(
        gathered.histories,
        {str(partition): end for partition, end in ends.items()},
        source.records,
        source.malformed,
        gathered.repeated,
        source.tombstones,
        source.lost,
        gathered.busiest,
    )


class _Source:
    """The topic of events, and running totals of what is read of it."""

    def __init__(
        self, settings: Settings, ends: Mapping[int, int], tell: Callable[[float], None], archive: Archive | None
    ) -> None:
        self.records = self.malformed = self.tombstones = self.lost = 0
        self._settings = settings
        self._tell = tell
        self._consumer = Consumer(consumer_config(settings))
        self._partitions = len(ends)
        self._begins = {partition: archive.end(partition) if archive else 0 for partition in ends}
        self._positions = dict(self._begins)
        self._wanted = sum(max(0, end - self._begins[partition]) for partition, end in ends.items())

    def close(self) -> None:
        self._consumer.close()

    def bounds(self, partition: int) -> tuple[int, int]:
        """First offset and end offset, now: while other partitions are read, retention may move the first one."""
        return watermarks(self._consumer, self._settings.interactions, partition)

    def read(self, partition: int, begin: int, end: int) -> pa.Table:
        """The records with offsets in begin..end-1."""
        of_value = self._settings.event_codec.decode
        tables, counts = [SCHEMA.empty_table()], Counter[str]()
        for messages in read_range(self._settings, self._settings.interactions, partition, begin, end):
            found = decoded(messages, of_value, self._partitions)
            tables.append(found.table)
            counts.update(records=len(messages), malformed=found.malformed, tombstones=found.tombstones)
            self._positions[partition] = (messages[-1].offset() or 0) + 1
            told = sum(self._positions.values()) - sum(self._begins.values())
            # a hole below the archive's end is read without having been counted
            self._tell(min(1.0, max(0.0, told / max(1, self._wanted))))
        self.records += counts["records"]
        self.malformed += counts["malformed"]
        self.tombstones += counts["tombstones"]
        return pa.concat_tables(tables)


def _kept(source: _Source, ends: Mapping[int, int]) -> Iterator[pa.Table]:
    """For each partition, what no tombstone forgets, straight from the log."""
    tables = {partition: source.read(partition, source.bounds(partition)[0], end) for partition, end in ends.items()}
    tombstones: dict[bytes, tuple[int, int]] = {}
    for partition, table in tables.items():
        tombstones.update(forgotten(partition, table))
    return (living(table, partition, tombstones) for partition, table in tables.items())


def _archived(source: _Source, ends: Mapping[int, int], archive: Archive) -> Iterator[pa.Table]:
    """The same, by way of the archive, which is extended first."""
    for partition, end in ends.items():
        _extend(archive, source, partition, end)
    tombstones = archive.tombstones()
    archive.forget_in_older_topics(tombstones)
    for partition, end in ends.items():
        table = archive.read(partition, end, tombstones)
        archive.tidy(partition)
        yield table
    # Another job may have forgotten a user in files while they were merged here; the merged one has that user still.
    if (later := archive.tombstones()) != tombstones:
        archive.forget_in_older_topics(later)
        for partition in ends:
            archive.forget(partition, later)


def _extend(archive: Archive, source: _Source, partition: int, end: int) -> None:
    """Archive what the log has of a partition below `end` and the archive has not, a file for each range.

    Retention may pass a range while it is read; then it is read from where the log begins now, and what is missing
    before is lost.
    """
    wanted = archive.end(partition) or None  # from where on it must be there; a first reading begins where the log does
    while True:
        low, high = source.bounds(partition)
        archived = archive.end(partition)
        if archived > high:
            raise Refused(
                f"partition {partition} of the log ends at offset {high} and its archive at {archived}: the log has "
                f"lost records; move {archive.directory(partition)} away to read the partition anew"
            )
        if wanted is not None and low > wanted:
            offsets = sum(stop - begin for begin, stop in archive.missing(partition, wanted, low))
            source.lost += offsets
            lost = {"partition": partition, "offsets": offsets, "archived_to": archived, "log_begins": low}
            log.warning("retention was faster than training: events were never archived", **lost)
        ranges = archive.missing(partition, low, end)
        if not ranges:
            return
        begin, stop = ranges[0]
        wanted = begin
        try:
            table = source.read(partition, begin, stop)
        except KafkaException:
            if source.bounds(partition)[0] <= begin:
                raise
        else:
            archive.write(partition, begin, stop, table)
            wanted = stop
