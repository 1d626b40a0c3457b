"""A store brought to the end of its changelog, in bounded memory: the record with the higher last offset wins.

What a store has is never read where the records themselves tell that nothing there can be newer: workers write a
user's events in the order of the log, so nearly every record has a higher last offset than all before it.
"""

import threading
import time
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

import structlog

from schemas.settings import Refused
from schemas.state import CHANGELOG_IDENTITY, decode_last_offset
from stream_app.store import Store

_REPORT_S: Final = 2.0
_UNKNOWN: Final = 1 << 63
"""no last offset is as high: every record is compared with the store's own"""
_log = structlog.get_logger()

Batches = Iterable[tuple[int, list[tuple[bytes, bytes | None]]]]
"""Keys and values in lists, each with the offset after its last."""


class Replay(NamedTuple):
    """What a changelog had for a store."""

    records: int
    stale: Collection[bytes]
    """users whose newest record is followed by an older one"""
    identified: bool
    """whether the changelog said to which topics it belongs"""


class Progress:
    """How far the recovery of several partitions is, side by side: a log line every 2 s and one at the end."""

    def __init__(self) -> None:
        """Nothing is to be read yet."""
        self.progressed_at = 0.0
        """when a part of a changelog was last taken in, in monotonic seconds"""
        self._lock = threading.Lock()
        self._expected = self._offsets = self._records = self._bytes = 0
        self._started = self._reported = time.monotonic()

    def begin(self, expected: int) -> None:
        """Start anew, with `expected` changelog offsets ahead."""
        with self._lock:
            self._expected, self._offsets, self._records, self._bytes = expected, 0, 0, 0
            self._started = self._reported = time.monotonic()

    def advance(self, offsets: int, records: int, size: int) -> None:
        """So many offsets of the changelog are taken in, which held `records` of `size` bytes."""
        with self._lock:
            self._offsets += offsets
            self._records += records
            self._bytes += size
            self.progressed_at = now = time.monotonic()
            if now - self._reported > _REPORT_S:
                self._reported = now
                left_s = (self._expected - self._offsets) * (now - self._started) / max(1, self._offsets)
                percent = min(100, 100 * self._offsets // max(1, self._expected))
                _log.info("recovering", percent=percent, eta_s=round(max(0.0, left_s), 1), **self._rate(now))

    def end(self) -> None:
        """Everything is durable."""
        with self._lock:
            if self._records:
                now = time.monotonic()
                _log.info("recovered", seconds=round(now - self._started, 2), **self._rate(now))

    def _rate(self, now: float) -> dict[str, float]:
        seconds = max(1e-3, now - self._started)
        return {
            "records": self._records,
            "per_s": round(self._records / seconds),
            "mb_per_s": round(self._bytes / 1e6 / seconds, 1),
        }


def replay(store: Store, partition: int, batches: Batches, identity: bytes, progress: Progress) -> Replay:
    """Take the records that follow the store's changelog position into it; they are durable at the end.

    Raises:
        Refused: the changelog says that it is not `identity`.
    """
    highest = _UNKNOWN if store.changelog_position else -1
    stale: set[bytes] = set()
    records, identified = 0, False
    for position, batch in batches:
        newest = _newest(batch, stale)
        if (found := newest.pop(CHANGELOG_IDENTITY, None)) is not None:
            identified = True
            _refuse_other(found, identity, partition)
        last_offsets = {key: decode_last_offset(value) for key, value in newest.items() if value is not None}
        _drop_older(store, newest, [key for key, last_offset in last_offsets.items() if last_offset < highest], stale)
        highest = max(highest, max(last_offsets.values(), default=-1))
        offsets = position - store.changelog_position
        store.write(newest, position, logged=False)
        records += len(batch)
        progress.advance(offsets, len(batch), sum(len(key) + len(value or b"") for key, value in batch))
    if records:
        store.flush()
    return Replay(records, sorted(stale), identified)


def _newest(batch: list[tuple[bytes, bytes | None]], stale: set[bytes]) -> dict[bytes, bytes | None]:
    """The winner of each user in `batch`; keeps `stale` true for the changelog read so far."""
    newest: dict[bytes, bytes | None] = {}
    for key, value in batch:
        if key in newest and _older(value, newest[key]):
            stale.add(key)
        else:
            newest[key] = value
            stale.discard(key)
    return newest


def _drop_older(store: Store, newest: dict[bytes, bytes | None], keys: list[bytes], stale: set[bytes]) -> None:
    """Drop from `newest` those of `keys` whose record is older than the store's own."""
    for key, kept in zip(keys, store.get(keys), strict=True):
        if _older(newest[key], kept):
            del newest[key]
            stale.add(key)


def _older(value: bytes | None, than: bytes | None) -> bool:
    return value is not None and than is not None and decode_last_offset(value) < decode_last_offset(than)


def _refuse_other(found: bytes, identity: bytes, partition: int) -> None:
    if found != identity:
        raise Refused(
            f"changelog partition {partition} belongs to {found.decode(errors='replace')}, now there are "
            f"{identity.decode()}: `python -m ops reset` or a new RECOMMENDER_APP processes the log again"
        )
