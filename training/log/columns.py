"""Records of the log as Arrow columns, and the way from there to histories."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Message
from numpy.typing import NDArray

from schemas.event import MAX_ID_BYTES, Event, decode, decode_key
from schemas.field_mapping import Decode
from schemas.malformed import Malformed
from schemas.placement import partition_of
from schemas.state import RECENT_EVENT_IDS
from training.log.histories import Histories, grouped

ENCODED: Final = ("user_id", "item_id", "event_type")
"""columns whose values are held once and referred to by number"""

_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
SCHEMA: Final = pa.schema(
    [
        pa.field("offset", pa.int64()),
        pa.field("user_id", _TEXT),
        pa.field("item_id", _TEXT),
        pa.field("timestamp", pa.timestamp("ms", tz="UTC")),
        pa.field("event_type", _TEXT),
        pa.field("event_id", pa.string()),
        pa.field("forgotten", pa.binary(16)),
    ]
)
"""Records of one partition, in the order of their offsets.

The events' columns have the names of the contract. A tombstone has none of them but `forgotten`: a hash of its user's
id, since whoever is to be forgotten should not live on as the name of someone who was.
"""

_right: Final = lru_cache(maxsize=1 << 16)(partition_of)
_NO_EVENT: Final = (None,) * len(Event._fields)

Forgotten = Mapping[bytes, tuple[int, int]]
"""Partition and offset of each user's last tombstone, by `user_digest`."""


class Decoded(NamedTuple):
    """What a batch of records held."""

    table: pa.Table
    """of `SCHEMA`"""
    malformed: int
    """records that break the event contract, and are not in the table"""
    tombstones: int


class Gathered(NamedTuple):
    """Histories, and what became of the records on the way."""

    histories: Histories
    repeated: int
    """events that repeated one of the last event ids of their user"""
    busiest: str
    """the user with the most events; empty if there is none"""


def user_digest(user_id: str) -> bytes:
    """What stands for a forgotten user."""
    return blake2b(user_id.encode(), digest_size=16).digest()


def decoded(messages: Sequence[Message], of_value: Decode = decode, partitions: int = 0) -> Decoded:
    """Records of one partition, in their order, as the worker understands them.

    Where `partitions` says how many there are, records of users who belong in another one are malformed: workers put
    them aside, and a tombstone in the right one would not forget them.
    """
    offsets: list[int] = []
    events: list[Sequence[str | int | None]] = []
    digests: list[bytes | None] = []
    for message in messages:
        key, value = message.key(), message.value()
        if partitions and key and len(key) <= MAX_ID_BYTES and _right(key, partitions) != message.partition():
            continue
        try:
            if value is None:
                digests.append(user_digest(decode_key(key)))
                events.append(_NO_EVENT)
            else:
                events.append(of_value(value, key, message.timestamp()[1]))
                digests.append(None)
        except Malformed:
            continue
        offsets.append(message.offset() or 0)
    columns: list[Sequence[object]] = [offsets, *zip(*events, strict=True), digests] if events else [()] * len(SCHEMA)
    arrays = [_array(column, field) for column, field in zip(columns, SCHEMA, strict=True)]
    tombstones = len(digests) - digests.count(None)
    return Decoded(pa.Table.from_arrays(arrays, schema=SCHEMA), len(messages) - len(offsets), tombstones)


def forgotten(partition: int, table: pa.Table) -> dict[bytes, tuple[int, int]]:
    """The tombstones among these records."""
    rows = table.filter(pc.is_valid(table["forgotten"]))
    offsets = rows["offset"].to_pylist()
    return {digest: (partition, offset) for digest, offset in zip(rows["forgotten"].to_pylist(), offsets, strict=True)}


def living(table: pa.Table, partition: int, tombstones: Forgotten) -> pa.Table:
    """The records without the events that come before a tombstone of their user.

    The order of the log is by partition, then by offset, although a user should have but one partition.
    """
    if not tombstones or not len(table):
        return table
    table = table.unify_dictionaries()
    users = table["user_id"].chunk(0).dictionary.to_pylist()
    until = np.zeros(len(users) + 1, dtype=np.int64)  # the last one is of tombstones, which have no user
    for number, user_id in enumerate(users):
        of_partition, offset = tombstones.get(user_digest(user_id), (-2, 0))
        if of_partition >= partition:
            until[number] = offset if of_partition == partition else np.iinfo(np.int64).max
    if not until.any():
        return table
    numbers = _numbers(table["user_id"], missing=len(users))
    kept = table["offset"].to_numpy() >= until[numbers]
    return table if kept.all() else table.filter(pa.array(kept))


def gather(partitions: Iterable[pa.Table]) -> Gathered:
    """The histories of records without forgotten events; a table for each partition.

    The same as one pass of `HistoryBuilder`, as long as no event id of a user is repeated in another partition.
    """
    users: list[pa.DictionaryArray] = []
    items: list[pa.DictionaryArray] = []
    timestamps_ms: list[NDArray[np.int64]] = []
    repeated = 0
    for table in partitions:
        events = table.filter(pc.is_valid(table["user_id"])).unify_dictionaries()
        if len(events) and (again := _repeats(events)).any():
            repeated += int(again.sum())
            events = events.filter(pa.array(~again))
        users += events["user_id"].chunks
        items += events["item_id"].chunks
        timestamps_ms.append(events["timestamp"].cast(pa.int64()).to_numpy())
    user_column, item_column = (pa.chunked_array(chunks, _TEXT).unify_dictionaries() for chunks in (users, items))
    if not len(user_column):
        return Gathered(grouped(*(np.zeros(0, dtype=np.int64),) * 3, []), repeated, "")
    user_of, item_of = _numbers(user_column), _numbers(item_column)
    busiest = user_column.chunk(0).dictionary[int(np.bincount(user_of).argmax())].as_py()
    item_ids = item_column.chunk(0).dictionary.to_pylist()
    return Gathered(grouped(user_of, item_of, np.concatenate(timestamps_ms), item_ids), repeated, busiest)


def _array(column: Sequence[object], field: pa.Field) -> pa.Array:
    if field.type == _TEXT:
        return pa.array(column, pa.string()).dictionary_encode()
    return pa.array(column, field.type)


def _numbers(column: pa.ChunkedArray, missing: int = -1) -> NDArray[np.int32]:
    """Where each value stands in the column's one dictionary."""
    if not len(column):
        return np.zeros(0, dtype=np.int32)
    return np.concatenate(
        [pc.fill_null(chunk.indices, missing).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    )


def _repeats(events: pa.Table) -> NDArray[np.bool_]:
    """Which events repeat one of the last `RECENT_EVENT_IDS` event ids of their user.

    Only users who have an event id twice are looked at one event after the other.
    """
    repeats = np.zeros(len(events), dtype=np.bool_)
    ids = events["event_id"]
    if ids.null_count == len(ids):
        return repeats
    # large: the ids of one partition may be more than the 2 GiB that a string column can address
    ids = ids.cast(pa.large_string()).dictionary_encode().unify_dictionaries()
    event_ids, users = _numbers(ids), _numbers(events["user_id"])
    times = np.bincount(event_ids[event_ids >= 0])
    suspects = np.flatnonzero(np.where(event_ids >= 0, times[event_ids], 0) > 1)
    pairs, counts = np.unique(users[suspects].astype(np.int64) * len(times) + event_ids[suspects], return_counts=True)
    suspicious = np.zeros(int(users.max()) + 1, dtype=np.bool_)
    suspicious[pairs[counts > 1] // len(times)] = True
    recent: dict[int, deque[int]] = {}
    for row in np.flatnonzero(suspicious[users] & (event_ids >= 0)).tolist():
        user, event_id = int(users[row]), int(event_ids[row])
        seen = recent.setdefault(user, deque(maxlen=RECENT_EVENT_IDS))
        if event_id in seen:
            repeats[row] = True
        else:
            seen.append(event_id)
    return repeats
