"""A user's state record: the value in RocksDB and on the changelog topic.

Little-endian, without padding; the first byte is the format.

    format u8 | flags u8 | model version u64 | last offset i64 | last time i64 ms | events u64
    | history length n: u32 | event ids m: u8 | state floats S: u16 | query floats D: u16
    then, oldest first: item hash u64[n] | time u32[n] s | kind u8[n] | event id hash u64[m]
    then: state f32[S] | query f32[D]

The invariant of serving: `state` and `query` are the fold of the history under the record's model, and nothing else.
"""

from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.malformed import Malformed

FORMAT: Final = 1
FORGOTTEN: Final = 1
"""flag: the user was forgotten at `last_offset`; the record is its header"""
RECENT_EVENT_IDS: Final = 32
"""an event id is known as a repeat among this many last ones of its user"""
NO_MODEL: Final = 0
CHANGELOG_OWN: Final = b"\xff"
"""how the keys of the changelog's own records begin: not UTF-8, so no user has such a key"""
CHANGELOG_IDENTITY: Final = CHANGELOG_OWN + b"identity"
"""key of the record that says what the changelog's states depend on"""

_HEADER: Final = Struct("<BBQqqQIBHH")
_COUNTS: Final = Struct("<IBHH")
_COUNTS_AT: Final = _HEADER.size - _COUNTS.size
_LAST_OFFSET_AT: Final = 10
_HEAD: Final = Struct("<xBQ8xq8xI")


class StateRecord(NamedTuple):
    """One user's record. Arrays are kept as their bytes, so that a round moves them without copies per element."""

    model_version: int = NO_MODEL
    last_offset: int = -1
    """offset in `interactions` of the last applied event"""
    last_time_ms: int = 0
    events: int = 0
    """events applied since the user was first seen or last forgotten"""
    items: bytes = b""
    """u64[n] item hashes"""
    times: bytes = b""
    """u32[n] seconds"""
    kinds: bytes = b""
    """u8[n], see `schemas.event.event_kind`"""
    event_ids: bytes = b""
    """u64[m] hashes of the last event ids, m <= 32"""
    state: bytes = b""
    """f32[S]"""
    query: bytes = b""
    """f32[D]"""
    flags: int = 0

    @property
    def history_length(self) -> int:
        """Number of kept events."""
        return len(self.kinds)

    @property
    def forgotten(self) -> bool:
        """Whether the user was forgotten at `last_offset`."""
        return bool(self.flags & FORGOTTEN)

    def item_hashes(self) -> NDArray[np.uint64]:
        """The history as item hashes, u64[n], oldest first."""
        return np.frombuffer(self.items, "<u8")


def encode(record: StateRecord) -> bytes:
    """The record's bytes."""
    return encode_folded(record, record.model_version, record.state, record.query)


def encode_folded(record: StateRecord, model_version: int, state: bytes, query: bytes) -> bytes:
    """The bytes of `record` with the model, state and query given, whatever it holds itself."""
    _, last_offset, last_time_ms, events, items, times, kinds, event_ids, _, _, flags = record
    header = _HEADER.pack(
        FORMAT,
        flags,
        model_version,
        last_offset,
        last_time_ms,
        events,
        len(kinds),
        len(event_ids) // 8,
        len(state) // 4,
        len(query) // 4,
    )
    return b"".join((header, items, times, kinds, event_ids, state, query))


def decode(value: bytes) -> StateRecord:
    """Decode a record.

    Raises:
        Malformed: another format, or a length that does not fit the header.
    """
    if len(value) < _HEADER.size or value[0] != FORMAT:
        raise Malformed("state record", value, f"must have format {FORMAT} and at least {_HEADER.size} bytes")
    _, flags, model_version, last_offset, last_time_ms, events, n, m, s, d = _HEADER.unpack_from(value)
    times_at = _HEADER.size + 8 * n
    kinds_at = times_at + 4 * n
    ids_at = kinds_at + n
    state_at = ids_at + 8 * m
    query_at = state_at + 4 * s
    end = query_at + 4 * d
    if len(value) != end:
        raise Malformed("state record", f"{len(value)} bytes", f"must have the {end} bytes that its header announces")
    return StateRecord(
        model_version,
        last_offset,
        last_time_ms,
        events,
        value[_HEADER.size : times_at],
        value[times_at:kinds_at],
        value[kinds_at:ids_at],
        value[ids_at:state_at],
        value[state_at:query_at],
        value[query_at:],
        flags,
    )


def is_whole(value: bytes) -> bool:
    """Whether these bytes are a record: its format, and the length that its header announces."""
    if len(value) < _HEADER.size or value[0] != FORMAT:
        return False
    n, m, s, d = _COUNTS.unpack_from(value, _COUNTS_AT)
    whole: bool = len(value) == _HEADER.size + 13 * n + 8 * m + 4 * (s + d)
    return whole


def decode_last_offset(value: bytes) -> int:
    """The last applied offset of an encoded record, without decoding the rest."""
    return int.from_bytes(value[_LAST_OFFSET_AT : _LAST_OFFSET_AT + 8], "little", signed=True)


class Head(NamedTuple):
    """What an encoded record tells without its arrays."""

    flags: int
    model_version: int
    last_time_ms: int
    history_length: int


def decode_head(value: bytes) -> Head:
    """The head of an encoded record, without decoding the rest."""
    return Head(*_HEAD.unpack_from(value))


def kept_length(events: int, window: int) -> int:
    """How many of a user's `events` the history keeps: between `window` (even) and 3/2 of it once it was reached.

    On reaching 3/2 `window` the oldest half window goes and the rest is folded again, so the length, and with it the
    state, is a function of the log alone.
    """
    if events < window + window // 2:
        return events
    return window + (events - window) % (window // 2)
