from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Message

from schemas.event import MAX_TIMESTAMP_MS, Event, encode, encode_json
from training.histories import HistoryBuilder
from training.interactions import Counts, append, read_file


@dataclass
class Record:
    """What a client gives for a record, as far as it is read."""

    of_key: bytes | None
    of_value: bytes | None

    def key(self) -> bytes | None:
        return self.of_key

    def value(self) -> bytes | None:
        return self.of_value

    def timestamp(self) -> tuple[int, int]:
        return 1, 777


def read(*records: Record) -> tuple[HistoryBuilder, Counts]:
    builder, counts = HistoryBuilder(), Counts()
    append(builder, counts, cast("list[Message]", records))
    return builder, counts


def event(user: str, item: str, **other: Any) -> Record:
    return Record(user.encode(), encode(Event(user, item, 5, **other)))


def test_events_in_either_encoding_become_histories_and_a_tombstone_forgets_what_came_before() -> None:
    builder, counts = read(
        event("a", "secret"),
        Record(b"b", encode_json(Event("b", "x", 6))),
        Record(b"a", None),
        event("a", "y"),
    )
    histories = builder.build()
    assert histories.item_ids == ["x", "y"]
    assert sorted(histories.timestamps_ms.tolist()) == [5, 6]
    assert (counts.records, counts.forgotten, counts.malformed) == (4, 1, 0)


def test_a_file_is_read_in_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "a.inter"
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\nu\tlate\t2.5\nv\tx\t7\nu\tearly\t1\n")
    reading = read_file(path)
    assert reading.histories.items.tolist() == [0, 1, 2]
    assert reading.histories.item_ids == ["early", "late", "x"]
    assert reading.histories.timestamps_ms.tolist() == [1000, 2500, 7000]
    assert (reading.records, reading.offsets) == (3, {})


def test_the_time_of_the_record_stands_in_for_a_missing_one() -> None:
    builder, _ = read(Record(b"a", b'{"user_id": "a", "item_id": "x"}'))
    assert builder.build().timestamps_ms.tolist() == [777]


def test_a_repeated_event_is_dropped() -> None:
    builder, _ = read(event("a", "x", event_id="e"), event("a", "x", event_id="e"), event("a", "x"))
    assert (len(builder), builder.repeated) == (2, 1)


@pytest.mark.parametrize(
    "record",
    [
        Record(b"a", b"\xc1"),
        Record(b"a", b"{"),
        Record(None, encode(Event("a", "x", 5))),
        Record(None, None),
        Record(b"other", encode(Event("a", "x", 5))),
        Record(b"a", encode(Event("a", "", 5))),
        Record(b"a", encode(Event("a", "x", MAX_TIMESTAMP_MS + 1))),
    ],
)
def test_a_malformed_record_is_counted_and_skipped(record: Record) -> None:
    builder, counts = read(record, event("a", "x"))
    assert (counts.records, counts.malformed, len(builder)) == (2, 1, 1)
