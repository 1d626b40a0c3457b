"""The users' state records: a RocksDB per partition and a changelog topic that agree.

A worker's writes are safe against a *zombie*, a worker that was frozen, lost a partition, and goes on writing to it:
whoever owns the partition finds that the offsets of its delivered changelog records do not continue its own position.
Then nothing is written to the store. The group coordinator is asked who owns the partition; the owner replays what the
other has written, the record with the higher `last_offset` wins, and records that were written behind newer ones are
sent again, so that compaction keeps the winner.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self

from rocksdict import Cache

from schemas.settings import Refused
from schemas.state import CHANGELOG_IDENTITY, FORMAT
from stream_app.broker import Broker, Confirm, Identity, NotOwner, Outgoing
from stream_app.recovery import Progress, Replay, replay
from stream_app.store import Store

_ATTEMPTS: Final = 3
_RECOVERING_PARTITIONS: Final = 4
_BULK: Final = 10_000
"""changelog records to read from which merging them meanwhile costs more than to begin it afterwards"""


class Recovered(NamedTuple):
    """What bringing a partition up to date took."""

    records: int
    """changelog records read"""
    healed: Collection[bytes]
    """users whose record was sent again because an older one followed it"""


class UserTable:
    """State records by partition and user key."""

    def __init__(
        self, directory: Path, broker: Broker, confirm: Confirm, history_length: int, cache_mib: int = 32
    ) -> None:
        """Own nothing yet.

        Args:
            directory: of the stores, one folder a partition.
            broker: of the changelog.
            confirm: asks the group whether a partition is still ours.
            history_length: W, on which depends what the stores hold.
            cache_mib: MiB of records that all stores together keep in memory.
        """
        self._directory = directory
        self._broker = broker
        self._confirm = confirm
        self._history_length = history_length
        self._cache = Cache(cache_mib << 20)
        self._stores: dict[int, Store] = {}
        self._progress = Progress()

    @property
    def replayed_at(self) -> float:
        """When a part of a changelog was last taken in, in monotonic seconds."""
        return self._progress.progressed_at

    @property
    def partitions(self) -> list[int]:
        """The open partitions."""
        return sorted(self._stores)

    def open(self, partitions: Collection[int]) -> dict[int, Recovered]:
        """Open the partitions' stores and bring them up to date with the changelog, four side by side.

        Raises:
            Refused: a store or the changelog belongs to other topics, or a store is ahead of its changelog.
            NotOwner: records must be healed, but the partition belongs to another worker by now.
        """
        identity = self._identity()
        stores: dict[int, Store] = {}
        try:
            ahead = 0
            for partition in sorted(partitions):
                stores[partition] = store = Store(self._directory / str(partition), self._cache)
                _refuse_other_world(store, identity)
                low, end = self._broker.changelog_range(partition)
                _refuse_broken_changelog(store, partition, low, end)
                ahead += end - store.changelog_position
                if end - store.changelog_position > _BULK:
                    store.begin_bulk()
            self._progress.begin(ahead)
            with ThreadPoolExecutor(_RECOVERING_PARTITIONS) as pool:
                recover = partial(self._recover, identity)
                recovered = dict(zip(stores, pool.map(recover, stores, stores.values()), strict=True))
            for store in stores.values():
                store.merge_again()
        except BaseException:
            for store in stores.values():
                store.close()
            raise
        self._progress.end()
        self._stores |= stores
        return recovered

    def close(self, partition: int) -> None:
        """Close a partition's store."""
        self._stores.pop(partition).close()

    def get(self, partition: int, keys: list[bytes]) -> list[bytes | None]:
        """The users' encoded records, None for unknown users."""
        return self._stores[partition].get(keys)

    def items(self, partition: int, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and encoded records of the users behind the key `after`, by key; empty: of all."""
        return self._stores[partition].items(after)

    def estimated_users(self, partition: int) -> int:
        """About how many users a partition has."""
        return self._stores[partition].estimated_records

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

    def _identity(self) -> "TableIdentity":
        return TableIdentity.of(self._broker.identity(), self._history_length)

    def _recover(self, identity: "TableIdentity", partition: int, store: Store) -> Recovered:
        recovered = self._catch_up(store, partition, identity)
        store.end_bulk()
        if store.identity is None:
            store.identity = identity.in_store
        return recovered

    def _catch_up(self, store: Store, partition: int, identity: "TableIdentity") -> Recovered:
        own_record = {CHANGELOG_IDENTITY: identity.on_changelog}
        records, healed = 0, set[bytes]()
        for _ in range(_ATTEMPTS):
            new = store.changelog_position == 0
            found = self._replay(store, partition, identity.on_changelog)
            records += found.records
            stale = list(found.stale)
            again = {key: value for key, value in zip(stale, store.get(stale), strict=True) if value}
            if new and not found.identified:
                _refuse_nameless(store, partition, found.records)
                again |= own_record
            if not again:
                return Recovered(records, healed)
            if stale and not self._confirm(partition):
                raise NotOwner(f"partition {partition} belongs to another worker")
            healed |= set(stale)
            offsets = self._broker.send({partition: Outgoing(states=list(again.items()))})[partition]
            if _continues(store.changelog_position, offsets, len(again)):
                store.write({}, store.changelog_position + len(again))
                return Recovered(records, healed)
        raise NotOwner(f"another worker keeps writing to partition {partition} of the changelog")

    def _replay(self, store: Store, partition: int, identity: bytes) -> Replay:
        """Bring the store to the changelog's end."""
        low, end = self._broker.changelog_range(partition)
        _refuse_broken_changelog(store, partition, low, end)
        batches = self._broker.read_changelog(partition, store.changelog_position, end)
        found = replay(store, partition, batches, identity, self._progress)
        if store.changelog_position < end:  # nothing but a gap at the end
            store.write({}, end)
        return found


class TableIdentity(NamedTuple):
    """What the states depend on, as JSON."""

    on_changelog: bytes
    """value of the changelog's record `CHANGELOG_IDENTITY`: without the changelog's own id"""
    in_store: bytes

    @classmethod
    def of(cls, topics: Identity, history_length: int) -> Self:
        """The identity of states of these topics."""
        shared = {
            "format": FORMAT,
            "history_length": history_length,
            "interactions": topics.interactions,
            "partitions": topics.partitions,
        }
        return cls(json.dumps(shared).encode(), json.dumps({**shared, "changelog": topics.changelog}).encode())


def _continues(position: int, offsets: list[int], count: int) -> bool:
    """Whether `offsets` are exactly position..position+count-1, in any order."""
    return len(offsets) == count and (not count or (min(offsets) == position and max(offsets) == position + count - 1))


def _refuse_other_world(store: Store, identity: TableIdentity) -> None:
    found = store.identity
    if found not in (None, identity.in_store):
        raise Refused(
            f"{store.path} belongs to {(found or b'').decode()}, now there are {identity.in_store.decode()}: "
            f"remove {store.path} to rebuild it from the changelog, or, where the changelog was lost or made anew, "
            "write that again with `python -m ops rebuild --from store`, or, where the topics or the history length "
            "were meant to change, process the log again with `python -m ops reset`"
        )


def _refuse_nameless(store: Store, partition: int, records: int) -> None:
    """A changelog says to which topics it belongs before it has a state, and compaction keeps that."""
    if records:
        store.write({}, 0)  # what was read is trusted as little the next time
        raise Refused(
            f"changelog partition {partition} has {records} records and none of them says to which topics it belongs: "
            "`python -m ops reset` or a new RECOMMENDER_APP processes the log again"
        )


def _refuse_broken_changelog(store: Store, partition: int, low: int, end: int) -> None:
    position = store.changelog_position
    if position > end:
        raise Refused(
            f"{store.path} reflects the changelog up to offset {position}, which ends at {end}: the changelog has lost "
            "states, `python -m ops rebuild --from store` writes it again"
        )
    if position < low:
        raise Refused(
            f"changelog partition {partition} starts at offset {low}, {store.path} needs it from {position}: "
            "`python -m ops rebuild --from store` writes it again from stores that are up to date, "
            "`python -m ops rebuild --from log` from the events"
        )
