"""The users' state records: a RocksDB per partition and a changelog topic that agree.

A worker's writes are safe against a *zombie*, a worker that was frozen, lost a partition, and goes on writing to it:
whoever owns the partition finds that the offsets of its delivered changelog records do not continue its own position.
Then nothing is written to the store. The group coordinator is asked who owns the partition; the owner replays what the
other has written, the record with the higher `last_offset` wins, and records that were written behind newer ones are
sent again, so that compaction keeps the winner.
"""

import json
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from schemas.settings import Refused
from schemas.state import CHANGELOG_IDENTITY, FORMAT, decode_last_offset
from stream_app.broker import Broker, Confirm, NotOwner, Outgoing
from stream_app.store import Store

_ATTEMPTS: Final = 3
_REPORT_S: Final = 2.0
_log = structlog.get_logger()


class Recovered(NamedTuple):
    """What bringing a partition up to date took."""

    records: int
    """changelog records read"""
    healed: Collection[bytes]
    """users whose record was sent again because an older one followed it"""


class UserTable:
    """State records by partition and user key."""

    def __init__(self, directory: Path, broker: Broker, confirm: Confirm, history_length: int) -> None:
        """Keep the stores in `directory`, one folder a partition; what they hold depends on `history_length`."""
        self._directory = directory
        self._broker = broker
        self._confirm = confirm
        self._history_length = history_length
        self._stores: dict[int, Store] = {}
        self.replayed_at = 0.0
        """when a part of a changelog was last taken in, in monotonic seconds"""

    @property
    def partitions(self) -> list[int]:
        """The open partitions."""
        return sorted(self._stores)

    def open(self, partition: int) -> Recovered:
        """Open a partition's store and bring it up to date with the changelog.

        Raises:
            Refused: the store or the changelog belongs to other topics, or the store is ahead of its changelog.
            NotOwner: records must be healed, but the partition belongs to another worker by now.
        """
        identity = self._identity()
        store = Store(self._directory / str(partition))
        try:
            _refuse_other_world(store, identity)
            recovered = self._catch_up(store, partition, identity)
            if store.identity is None:
                store.identity = identity.in_store
        except BaseException:
            store.close()
            raise
        self._stores[partition] = store
        return recovered

    def close(self, partition: int) -> None:
        """Close a partition's store."""
        self._stores.pop(partition).close()

    def get(self, partition: int, keys: list[bytes]) -> list[bytes | None]:
        """The users' encoded records, None for unknown users."""
        return self._stores[partition].get(keys)

    def input_position(self, partition: int) -> int:
        """Every input record below it is done: applied, and its list acknowledged."""
        return self._stores[partition].input_position

    def store(self, partition: int, records: Mapping[bytes, bytes], offsets: list[int], input_position: int) -> bool:
        """Keep `records`, delivered to the changelog at `offsets`, and the new input position.

        Returns:
            False, and nothing is written, when the offsets do not continue our own: another writer was there.
        """
        store = self._stores[partition]
        if not _continues(store.changelog_position, offsets, len(records)):
            return False
        store.write(records, store.changelog_position + len(records), input_position)
        return True

    def overtaken(self, partition: int) -> bool:
        """Whether another writer's records stand on the changelog."""
        return self._broker.changelog_range(partition)[1] != self._stores[partition].changelog_position

    def heal(self, partition: int) -> Recovered:
        """Take in what another writer has put on the changelog, if the partition is ours.

        Raises:
            NotOwner: it is not.
        """
        if not self._confirm(partition):
            raise NotOwner(f"partition {partition} belongs to another worker")
        return self._catch_up(self._stores[partition], partition, self._identity())

    def _identity(self) -> "_Identity":
        """What the states depend on, as the store and, without its own topic's id, the changelog keep it."""
        of_topics = self._broker.identity()
        shared = {
            "format": FORMAT,
            "history_length": self._history_length,
            "interactions": of_topics.interactions,
            "partitions": of_topics.partitions,
        }
        own = {**shared, "changelog": of_topics.changelog}
        return _Identity(json.dumps(shared).encode(), json.dumps(own).encode())

    def _catch_up(self, store: Store, partition: int, identity: "_Identity") -> Recovered:
        own_record = {CHANGELOG_IDENTITY: identity.on_changelog}
        records, healed = 0, set[bytes]()
        for _ in range(_ATTEMPTS):
            new = store.changelog_position == 0
            replay = self._replay(store, partition, identity.on_changelog)
            records += replay.records
            again = {key: value for key, value in zip(replay.stale, store.get(replay.stale), strict=True) if value}
            if new and not replay.identified:
                again |= own_record
            if not again:
                return Recovered(records, healed)
            if replay.stale and not self._confirm(partition):
                raise NotOwner(f"partition {partition} belongs to another worker")
            healed |= set(replay.stale)
            offsets = self._broker.send({partition: Outgoing(states=list(again.items()))})[partition]
            if _continues(store.changelog_position, offsets, len(again)):
                store.write({}, store.changelog_position + len(again))
                return Recovered(records, healed)
        raise NotOwner(f"another worker keeps writing to partition {partition} of the changelog")

    def _replay(self, store: Store, partition: int, identity: bytes) -> "_Replay":
        """Bring the store to the changelog's end; the record with the higher last offset wins."""
        low, end = self._broker.changelog_range(partition)
        _refuse_broken_changelog(store, partition, low, end)
        stale: set[bytes] = set()
        records, identified = 0, False
        started = reported = time.monotonic()
        for position, batch in self._broker.read_changelog(partition, store.changelog_position, end):
            newest = _newest(batch, stale)
            if (found := newest.pop(CHANGELOG_IDENTITY, None)) is not None:
                identified = True
                if found != identity:
                    raise Refused(
                        f"changelog partition {partition} belongs to {found.decode()}, now there are "
                        f"{identity.decode()}: `python -m ops reset` or a new RECOMMENDER_APP processes the log again"
                    )
            if store.changelog_position > 0:
                _keep_newer(store, newest, stale)
            store.write(newest, position, logged=False)
            records += len(batch)
            self.replayed_at = now = time.monotonic()
            if now - reported > _REPORT_S:
                reported = now
                _log.info("recovering", partition=partition, records=records, per_s=round(records / (now - started)))
        if records:
            store.flush()
        if store.changelog_position < end:  # nothing but a gap at the end
            store.write({}, end)
        return _Replay(records, sorted(stale), identified)


class _Identity(NamedTuple):
    on_changelog: bytes
    in_store: bytes


class _Replay(NamedTuple):
    records: int
    stale: list[bytes]
    """users whose newest record is followed by an older one"""
    identified: bool
    """whether the changelog said to which topics it belongs"""


def _newest(batch: list[tuple[bytes, bytes | None]], stale: set[bytes]) -> dict[bytes, bytes | None]:
    """The winner of each user in `batch`; keeps `stale` true for the changelog read so far."""
    newest: dict[bytes, bytes | None] = {}
    for key, value in batch:
        if _older(value, newest.get(key)):
            stale.add(key)
        else:
            newest[key] = value
            stale.discard(key)
    return newest


def _keep_newer(store: Store, newest: dict[bytes, bytes | None], stale: set[bytes]) -> None:
    """Drop from `newest` what is older than the store's own record."""
    keys = list(newest)
    for key, kept in zip(keys, store.get(keys), strict=True):
        if _older(newest[key], kept):
            del newest[key]
            stale.add(key)


def _older(value: bytes | None, than: bytes | None) -> bool:
    return value is not None and than is not None and decode_last_offset(value) < decode_last_offset(than)


def _continues(position: int, offsets: list[int], count: int) -> bool:
    """Whether `offsets` are exactly position..position+count-1, in any order."""
    return len(offsets) == count and (not count or (min(offsets) == position and max(offsets) == position + count - 1))


def _refuse_other_world(store: Store, identity: _Identity) -> None:
    found = store.identity
    if found not in (None, identity.in_store):
        raise Refused(
            f"{store.path} belongs to {(found or b'').decode()}, now there are {identity.in_store.decode()}: "
            f"remove {store.path} to rebuild it from the changelog, or, where the topics or the history length were "
            "meant to change, process the log again with `python -m ops reset`"
        )


def _refuse_broken_changelog(store: Store, partition: int, low: int, end: int) -> None:
    position = store.changelog_position
    if position > end:
        raise Refused(
            f"{store.path} reflects the changelog up to offset {position}, which ends at {end}: "
            f"remove {store.path} to rebuild it from the changelog"
        )
    if position < low:
        raise Refused(
            f"changelog partition {partition} starts at offset {low}, {store.path} needs it from {position}: "
            "`python -m ops reset` or a new RECOMMENDER_APP processes the log again"
        )
