"""What a round does to one user, before any arithmetic: which events are applied, what is to be folded, what is owed.

The history keeps W to 3/2 W events: on reaching 3/2 W the oldest half W go and the rest is folded again from zeros, so
the state is a function of the log alone (see `schemas.state.kept_length`).
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

from schemas.recommendation import Cause
from schemas.state import FORGOTTEN, NO_MODEL, RECENT_EVENT_IDS, StateRecord
from stream_app.fold import Segment

_U32: Final = Struct("<I")


class Change(NamedTuple):
    """A decoded event, or the wish to be forgotten when `item` is empty."""

    offset: int
    timestamp_ms: int
    item: bytes = b""
    """u64 item hash"""
    kind: int = 0
    event_id_hash: bytes = b""
    """u64, empty where the event has no id"""
    event_id: str | None = None


class Owed(NamedTuple):
    """A list that is owed for the event at `offset`; it belongs to a mark of a segment, in the same order."""

    cause: Cause
    offset: int
    timestamp_ms: int
    event_id: str | None
    history_length: int


class Advanced(NamedTuple):
    """A user after a round, all but the folding."""

    record: StateRecord
    """the new record; its state and query are those of the last segment's end"""
    segments: list[Segment]
    """to fold; the last one ends with the new record's history"""
    owed: list[Owed]
    """one for each mark of the segments"""
    applied: int
    repeated: int
    """events dropped because their event id is among the user's last ones"""
    replayed: int
    """events that were applied before"""
    late: int
    """of those applied, events that are older than the one applied before them"""
    changed: bool
    """whether the record is new and must be kept"""
    forgotten: bool
    """whether the user's lists must be removed"""


def advance(
    record: StateRecord,
    changes: Sequence[Change],
    window: int,
    *,
    rebase: bool,
    every: bool = True,
    again: Cause = Cause.REPLAY,
) -> Advanced:
    """Apply `changes`, in offset order, to a user's record.

    Args:
        record: the user's record; an empty one for a new user.
        changes: those at or below the record's last offset are not applied again, but a list is owed for them.
        window: W, even.
        rebase: fold the whole history from zeros instead of stepping on from the record's state.
        every: owe a list for every event, else for the last one only.
        again: the cause of a list that is owed although nothing new was applied.
    """
    last_offset, last_time_ms, events, flags = record.last_offset, record.last_time_ms, record.events, record.flags
    items, times, kinds, event_ids = record.items, record.times, record.kinds, record.event_ids
    folded, state, query = (0, b"", b"") if rebase else (len(kinds), record.state, record.query)
    segments: list[Segment] = []
    marks: list[int] = []
    owed: list[Owed] = []
    applied = repeated = replayed = late = 0
    event_id: str | None = None  # of the last applied event
    forgotten = False
    limit = window + window // 2

    for offset, timestamp_ms, item, kind, event_id_hash, change_event_id in changes:
        if offset <= last_offset:
            replayed += 1
            if offset == last_offset:
                event_id = change_event_id
            continue
        if not item:
            last_offset, last_time_ms, events, flags = offset, timestamp_ms, 0, FORGOTTEN
            items = times = kinds = event_ids = state = query = b""
            folded, segments, marks, owed, event_id, forgotten = 0, [], [], [], None, True
            continue
        if event_id_hash:
            if _holds(event_ids, event_id_hash):
                repeated += 1
                continue
            event_ids = (event_ids + event_id_hash)[-8 * RECENT_EVENT_IDS :]
        before = items
        items += item
        times += _U32.pack(timestamp_ms // 1000)
        kinds += bytes((kind,))
        if len(kinds) == limit:
            if marks:
                segments.append(Segment(before, folded, state, query, marks))
            items, times, kinds = items[-8 * window :], times[-4 * window :], kinds[-window:]
            folded, state, query, marks = 0, b"", b"", []
        if timestamp_ms < last_time_ms and not flags:  # the time of a wish to be forgotten is no event's
            late += 1
        last_offset, last_time_ms, event_id, flags = offset, timestamp_ms, change_event_id, 0
        events += 1
        applied += 1
        if not every:
            segments, marks, owed = [], [], []
        marks.append(len(kinds))
        owed.append(Owed(Cause.EVENT, last_offset, last_time_ms, event_id, len(kinds)))

    forgotten = forgotten or bool(flags & FORGOTTEN and (replayed or not changes))
    if not owed and not flags & FORGOTTEN and (replayed or not changes):
        marks.append(len(kinds))
        owed.append(Owed(again, last_offset, last_time_ms, event_id, len(kinds)))
    segments.append(Segment(items, folded, state, query, marks))
    return Advanced(
        StateRecord(NO_MODEL, last_offset, last_time_ms, events, items, times, kinds, event_ids, b"", b"", flags),
        segments,
        owed,
        applied,
        repeated,
        replayed,
        late,
        last_offset != record.last_offset or rebase,
        forgotten,
    )


def _holds(hashes: bytes, wanted: bytes) -> bool:
    """Whether `wanted`, 8 bytes, is one of the 8-byte `hashes`."""
    at = hashes.find(wanted)
    while at % 8 and at != -1:
        at = hashes.find(wanted, at + 1)
    return at != -1
