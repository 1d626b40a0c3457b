"""An interaction event: the value of a record on the topic `interactions`."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgpack

from schemas.malformed import Malformed
from schemas.packing import pack_json, unpack_map

DEFAULT_TYPE: Final = "interaction"
MAX_ID_BYTES: Final = 256
MAX_VALUE_BYTES: Final = 64 * 1024
MAX_TIMESTAMP_MS: Final = (1 << 32) * 1000 - 1
"""State records keep the time as unsigned 32-bit seconds: the year 2106."""

_Fields = dict[str, Any]


class Event(NamedTuple):
    """One user's interaction with one item at `timestamp_ms` (UTC milliseconds)."""

    user_id: str
    item_id: str
    timestamp_ms: int
    event_type: str = DEFAULT_TYPE
    event_id: str | None = None


def decode(
    value: bytes, key: bytes | None, record_timestamp_ms: int, read: Callable[[_Fields], _Fields] | None = None
) -> Event:
    """Decode and validate the value of a record. A null value is a tombstone and no event: see `decode_key`.

    Args:
        value: a msgpack map, or a JSON object when its first byte is ``{``. Unknown fields are ignored.
        key: the record's key, which must be the user id.
        record_timestamp_ms: stands in for a missing `timestamp`.
        read: finds these fields in a map that has others, see `schemas.field_mapping`.

    Raises:
        Malformed: a rule of the event contract is broken.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise Malformed("value", f"{len(value)} bytes", f"must be at most {MAX_VALUE_BYTES} bytes")
    fields = unpack_map(value, "value")
    if read is not None:
        fields = read(fields)
    user_id = identifier("user_id", fields.get("user_id"))
    if user_id.encode() != key:
        raise Malformed("user_id", user_id, f"must equal the record's key {decode_key(key)!r}")
    timestamp_ms = fields.get("timestamp")
    if timestamp_ms is None:
        timestamp_ms = record_timestamp_ms
    if type(timestamp_ms) is not int or not 0 <= timestamp_ms <= MAX_TIMESTAMP_MS:
        raise Malformed("timestamp", timestamp_ms, f"must be an integer of milliseconds in 0..{MAX_TIMESTAMP_MS}")
    event_type = fields.get("event_type")
    event_id = fields.get("event_id")
    return Event(
        user_id,
        identifier("item_id", fields.get("item_id")),
        timestamp_ms,
        DEFAULT_TYPE if event_type is None else identifier("event_type", event_type),
        None if event_id is None else identifier("event_id", event_id),
    )


def decode_key(key: bytes | None) -> str:
    """The user id that a record's key holds.

    Raises:
        Malformed: no key, or not 1 to 256 bytes of UTF-8.
    """
    if key is None:
        raise Malformed("key", key, "must be the user id")
    if not 0 < len(key) <= MAX_ID_BYTES:
        raise Malformed("key", key, f"must be 1 to {MAX_ID_BYTES} bytes")
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise Malformed("key", key, "must be UTF-8") from None


def encode(event: Event, write: Callable[[_Fields], _Fields] | None = None) -> bytes:
    """The event as a msgpack map; defaults are left out, and `write` may give the fields other names."""
    fields = _fields(event)
    packed: bytes = msgpack.packb(fields if write is None else write(fields))
    return packed


def encode_json(event: Event) -> bytes:
    """The event as a JSON object; defaults are left out."""
    return pack_json(_fields(event))


def event_id_hash(event_id: str) -> int:
    """BLAKE2b-64 of an event id: what a state record remembers of it."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "little")


def event_kind(event_type: str) -> int:
    """One byte that stands for the event type in a history: 0 for the default, else 1..255 by BLAKE2b."""
    if event_type == DEFAULT_TYPE:
        return 0
    return 1 + blake2b(event_type.encode(), digest_size=8).digest()[0] % 255


def _fields(event: Event) -> _Fields:
    fields: _Fields = {"user_id": event.user_id, "item_id": event.item_id, "timestamp": event.timestamp_ms}
    if event.event_type != DEFAULT_TYPE:
        fields["event_type"] = event.event_type
    if event.event_id is not None:
        fields["event_id"] = event.event_id
    return fields


def identifier(field: str, value: Any) -> str:
    """The value, if it can be a user's or an item's id.

    Raises:
        Malformed: not a string of 1 to 256 bytes.
    """
    if type(value) is not str:
        raise Malformed(field, value, "must be a string")
    length = len(value) if value.isascii() else _byte_length(field, value)
    if not 0 < length <= MAX_ID_BYTES:
        raise Malformed(field, value, f"must be 1 to {MAX_ID_BYTES} bytes")
    return value


def _byte_length(field: str, value: str) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        raise Malformed(field, value, "must be UTF-8") from None
