"""Who has asked to be forgotten since a record was written: what must not be sent again."""

from collections.abc import Iterable
from typing import NamedTuple

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from schemas.kafka import TIMEOUT_S, consumer_config, end_offsets, read_range, watermarks
from schemas.placement import partition_of
from schemas.settings import Settings


class Written(NamedTuple):
    """A record of a user, and where it stood."""

    user: bytes
    partition: int
    offset: int
    at_ms: int
    """the record's time, UTC"""


class Tombstone(NamedTuple):
    """A wish to be forgotten."""

    partition: int
    offset: int
    at_ms: int


def forgotten_since(settings: Settings, records: Iterable[Written]) -> dict[Written, Tombstone]:
    """Those of `records` whose user has asked to be forgotten after them, with the last such wish.

    In the user's own partition the order of the log decides, else the time. Reads each user's partition from the oldest
    of the records on.

    Raises:
        KafkaException: the cluster cannot be reached, or the topic does not exist.
        TimeoutError: no progress for 30 s.
    """
    ends = end_offsets(settings, settings.interactions)
    of_partition: dict[int, list[Written]] = {}
    for record in records:
        of_partition.setdefault(partition_of(record.user, len(ends)), []).append(record)
    found: dict[Written, Tombstone] = {}
    reader = Consumer(consumer_config(settings))
    try:
        for partition, written in of_partition.items():
            start = _start(settings, reader, partition, written)
            tombstones = _tombstones(settings, partition, start, ends[partition], {record.user for record in written})
            for record in written:
                last = tombstones.get(record.user)
                if last is not None and _is_before(record, last):
                    found[record] = last
    finally:
        reader.close()
    return found


def _start(settings: Settings, reader: Consumer, partition: int, written: list[Written]) -> int:
    """The first offset of a partition at which a tombstone may stand that counts for one of these."""
    low, high = watermarks(reader, settings.interactions, partition)
    starts = [record.offset + 1 for record in written if record.partition == partition]
    if times := [record.at_ms for record in written if record.partition != partition]:
        wanted = TopicPartition(settings.interactions, partition, max(0, min(times)))
        (at,) = reader.offsets_for_times([wanted], TIMEOUT_S)
        starts.append(high if at.offset == OFFSET_END else at.offset)
    return max(low, min(starts))


def _tombstones(settings: Settings, partition: int, start: int, end: int, users: set[bytes]) -> dict[bytes, Tombstone]:
    last: dict[bytes, Tombstone] = {}
    for messages in read_range(settings, settings.interactions, partition, start, end):
        for message in messages:
            key = message.key()
            if message.value() is None and key in users:
                last[key] = Tombstone(partition, message.offset() or 0, message.timestamp()[1])
    return last


def _is_before(record: Written, tombstone: Tombstone) -> bool:
    if record.partition == tombstone.partition:
        return record.offset < tombstone.offset
    return record.at_ms <= tombstone.at_ms
