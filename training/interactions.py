"""The training set as the log has it: the topic of events, up to the end offsets seen at the start."""

from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import Consumer, Message

from schemas.event import decode, decode_key
from schemas.kafka import consumer_config, describe_topics, read_range, watermarks
from schemas.malformed import Malformed
from schemas.settings import Settings
from training.histories import Histories, HistoryBuilder


@dataclass(frozen=True)
class Reading:
    """What a reading of the log found."""

    histories: Histories
    offsets: dict[str, int]
    """For each partition, the first offset that was not read."""
    records: int
    malformed: int
    """Records that break the event contract; the worker has dead-lettered them."""
    repeated: int
    """Events that repeat an event id of their user."""
    forgotten: int
    """Tombstones."""


def read_interactions(settings: Settings) -> Reading:
    """Read the whole log as it is now.

    Raises:
        KafkaException: the cluster cannot be reached, or the topic does not exist.
        TimeoutError: a partition stopped giving records.
    """
    partitions = describe_topics(settings, [settings.interactions])[settings.interactions].partitions
    consumer = Consumer(consumer_config(settings))
    try:
        ends = {partition: watermarks(consumer, settings.interactions, partition) for partition in range(partitions)}
    finally:
        consumer.close()
    builder, counts = HistoryBuilder(), Counts()
    for partition, (start, end) in ends.items():
        for messages in read_range(settings, settings.interactions, partition, start, end):
            append(builder, counts, messages)
    return Reading(
        builder.build(),
        {str(partition): end for partition, (_, end) in ends.items()},
        counts.records,
        counts.malformed,
        builder.repeated,
        counts.forgotten,
    )


@dataclass
class Counts:
    """Running totals of a reading."""

    records: int = 0
    malformed: int = 0
    forgotten: int = 0


def append(builder: HistoryBuilder, counts: Counts, messages: Iterable[Message]) -> None:
    """Add records of one partition, in their order, as the worker understands them."""
    for message in messages:
        counts.records += 1
        key, value = message.key(), message.value()
        try:
            if value is None:
                builder.forget(decode_key(key))
                counts.forgotten += 1
            else:
                event = decode(value, key, message.timestamp()[1])
                builder.add(event.user_id, event.item_id, event.timestamp_ms, event.event_id)
        except Malformed:
            counts.malformed += 1
