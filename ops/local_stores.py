"""The workers' stores on this host: which of them holds the newest states of a partition."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ops.reset import find_stores
from schemas.settings import Refused
from schemas.state import FORMAT
from stream_app.broker import Identity
from stream_app.store import Store


class LocalStore(NamedTuple):
    """What a store says of itself."""

    path: Path
    partition: int
    identity: Mapping[str, object]
    """empty: it was never complete"""
    changelog_position: int
    input_position: int

    @property
    def changelog(self) -> str:
        """Id of the changelog whose positions it counts."""
        return str(self.identity.get("changelog"))

    @property
    def history_length(self) -> int:
        """Of the worker that wrote it."""
        found = self.identity.get("history_length")
        return found if isinstance(found, int) else 0


def open_store(path: Path) -> Store:
    """Open a store that no worker uses.

    Raises:
        Refused: it is in use, or damaged.
    """
    try:
        return Store(path)
    except OSError as error:
        raise Refused(str(error)) from None


def read_stores(data_dir: Path, app: str) -> list[LocalStore]:
    """All stores of an app below `data_dir`, of any worker.

    Raises:
        Refused: one is in use, or damaged.
    """
    return [_read(path) for path in find_stores(data_dir, app) if path.name.isdecimal()]


def choose(stores: Iterable[LocalStore], topics: Identity, data_dir: Path) -> list[LocalStore]:
    """The store with the newest states of each partition.

    Of stores that follow one changelog it is the one that has read most of it: its states are all of theirs or later
    ones. Between changelogs the present one counts, then the one that has done more events.

    Raises:
        Refused: a partition has no complete store here, or stores belong to other events or history lengths.
    """
    complete = [store for store in stores if store.identity]
    for store in complete:
        wanted = {"format": FORMAT, "interactions": topics.interactions, "partitions": topics.partitions}
        if {name: store.identity.get(name) for name in wanted} != wanted:
            raise Refused(
                f"{store.path} belongs to {json.dumps(store.identity)}, now there are {json.dumps(wanted)}: remove it "
                "if it is of an earlier topic, else compute the states again with `python -m ops rebuild --from log`"
            )
    chosen = []
    for partition in range(topics.partitions):
        newest: dict[str, LocalStore] = {}
        for store in complete:
            known = newest.get(store.changelog)
            if store.partition == partition and (known is None or store.changelog_position > known.changelog_position):
                newest[store.changelog] = store
        if newest:
            chosen.append(max(newest.values(), key=lambda s: (s.changelog == topics.changelog, s.input_position)))
    if missing := sorted(set(range(topics.partitions)) - {store.partition for store in chosen}):
        raise Refused(
            f"{data_dir} has no complete store of partitions {missing}: copy the folders of the other hosts' workers "
            "into it, or compute the states again with `python -m ops rebuild --from log`"
        )
    if len(lengths := {store.history_length for store in chosen}) > 1:
        raise Refused(f"stores in {data_dir} have different history lengths {sorted(lengths)}: remove the wrong ones")
    return chosen


def _read(path: Path) -> LocalStore:
    store = open_store(path)
    try:
        identity = json.loads(store.identity or b"{}")
        return LocalStore(path, int(path.name), identity, store.changelog_position, store.input_position)
    finally:
        store.close()
