"""The training set: the topic of events, up to the end offsets seen at the start, or a file in its stead."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Message

from schemas import inter_file
from schemas.event import decode, decode_key
from schemas.field_mapping import Decode
from schemas.kafka import end_offsets, read_topic
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


def read_file(path: Path) -> Reading:
    """Read a RecBole `.inter` file as if it were the log, its events in the order of time.

    Raises:
        Refused: the file cannot be read, or is malformed.
    """
    builder = HistoryBuilder()
    for event in inter_file.read_interactions(path).events():
        builder.add(event.user_id, event.item_id, event.timestamp_ms)
    return Reading(builder.build(), offsets={}, records=len(builder), malformed=0, repeated=0, forgotten=0)


def read_interactions(
    settings: Settings, tell: Callable[[float], None] = lambda _: None, until: Mapping[str, int] | None = None
) -> Reading:
    """Read the whole log as it is now; `tell` is told the share that is read, 0 to 1.

    With `until`, only what has a lower offset than that of its partition.

    Raises:
        KafkaException: the cluster cannot be reached, or the topic does not exist.
        TimeoutError: a partition stopped giving records.
    """
    ends = end_offsets(settings, settings.interactions)
    ends = {partition: min(end, (until or {}).get(str(partition), end)) for partition, end in ends.items()}
    builder, counts, of_value = HistoryBuilder(), Counts(), settings.event_codec.decode
    positions = dict.fromkeys(ends, 0)
    for partition, messages in read_topic(settings, settings.interactions, ends):
        append(builder, counts, messages, of_value)
        positions[partition] = (messages[-1].offset() or 0) + 1
        tell(sum(positions.values()) / sum(ends.values()))
    return Reading(
        builder.build(),
        {str(partition): end for partition, end in ends.items()},
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


def append(builder: HistoryBuilder, counts: Counts, messages: Iterable[Message], of_value: Decode = decode) -> None:
    """Add records of one partition, in their order, as the worker understands them."""
    for message in messages:
        counts.records += 1
        key, value = message.key(), message.value()
        try:
            if value is None:
                builder.forget(decode_key(key))
                counts.forgotten += 1
            else:
                event = of_value(value, key, message.timestamp()[1])
                builder.add(event.user_id, event.item_id, event.timestamp_ms, event.event_id)
        except Malformed:
            counts.malformed += 1
