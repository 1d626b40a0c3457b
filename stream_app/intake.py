"""From fetched records to what they mean for each user."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from schemas import event
from schemas.field_mapping import Decode
from schemas.item import item_hash
from schemas.malformed import Malformed
from stream_app.advance import Change
from stream_app.broker import DeadLetter, Record


class Intake(NamedTuple):
    """The records of one partition, sorted out."""

    changes: dict[bytes, list[Change]]
    """by user key, in offset order"""
    dead_letters: list[DeadLetter]
    position: int
    """the next input offset"""


def take_in(
    records: Sequence[Record], position: int, skipped: Collection[int] = (), decode: Decode = event.decode
) -> Intake:
    """Decode `records`, in offset order.

    Args:
        records: of one partition.
        position: records below this offset are done already.
        skipped: offsets that an operator wants dead-lettered unread.
        decode: reads an event out of a record's value.
    """
    changes: dict[bytes, list[Change]] = {}
    dead_letters: list[DeadLetter] = []
    for record in records:
        if record.offset < position:
            continue
        position = record.offset + 1
        try:
            if record.offset in skipped:
                raise Malformed("offset", record.offset, "is skipped by a setting")
            change = _change(record, decode)
        except Malformed as malformed:
            dead_letters.append(DeadLetter(record, malformed.field, str(malformed)))
            continue
        key = record.key
        assert key is not None  # a record without a key is malformed
        if (known := changes.get(key)) is None:
            changes[key] = [change]
        else:
            known.append(change)
    return Intake(changes, dead_letters, position)


def stray_letters(records: Iterable[Record], intake: Intake, strays: Mapping[bytes, Malformed]) -> list[DeadLetter]:
    """The records of one partition whose users belong in another: `strays`, by key, with what is wrong."""
    if not strays:
        return []
    offsets = {change.offset for key in strays for change in intake.changes[key]}
    return [
        DeadLetter(record, wrong.field, str(wrong))
        for record in records
        if record.offset in offsets and (wrong := strays.get(record.key or b""))
    ]


def _change(record: Record, decode: Decode) -> Change:
    if record.value is None:
        event.decode_key(record.key)
        return Change(record.offset, record.timestamp_ms)
    decoded = decode(record.value, record.key, record.timestamp_ms)
    return Change(
        record.offset,
        decoded.timestamp_ms,
        _item_hash_bytes(decoded.item_id),
        event.event_kind(decoded.event_type),
        event.event_id_hash(decoded.event_id).to_bytes(8, "little") if decoded.event_id is not None else b"",
        decoded.event_id,
    )


@lru_cache(maxsize=1 << 16)
def _item_hash_bytes(item_id: str) -> bytes:
    return item_hash(item_id).to_bytes(8, "little")
