"""What must hold when a run is over: topics and stores are held against the log."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, cast

import numpy as np

from ops.audit import User, compare, read_lists, read_users
from ops.chaos.cluster import HISTORY_LENGTH, Cluster
from schemas import state
from schemas.artefact import CHAMPION, decode_manifest
from schemas.artefact_store import ArtefactStore
from schemas.kafka import end_offsets, read_topic
from schemas.settings import Settings
from schemas.state import CHANGELOG_OWN, NO_MODEL, StateRecord
from stream_app.fold import Segment, fold
from stream_app.loading import load_model
from stream_app.model import Model
from stream_app.store import Store

_TOLERANCE: Final = 1e-4
_EXAMPLES: Final = 5


@dataclass
class Findings:
    """What a check found; all but `events` are errors."""

    events: int = 0
    """valid and unrepeated, in the log"""
    lost: int = 0
    """events that a user's record lacks, and records that the log itself lacks"""
    applied_twice: int = 0
    """events that a user's record has too often"""
    uncovered: int = 0
    """events without a list of their user at or after them"""
    wrong_histories: int = 0
    """users whose record has the right number of events and another history"""
    wrong_states: int = 0
    """users whose state is not the fold of their history under their record's model"""
    uncommitted: int = 0
    """offsets between what is committed and the end of the log"""
    store_differences: int = 0
    """records of a store that are not those of the changelog"""
    stores_behind: int = 0
    """partitions without a store that reflects all of the changelog"""
    wrong_dead_letters: int = 0
    """readable records among the dead letters, and unreadable ones that are not"""
    examples: list[str] = field(default_factory=list)
    """the first errors, for a person"""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not any(count for name, count in asdict(self).items() if name not in ("events", "examples"))

    def tell(self, example: str) -> None:
        """Note an example of an error, if there are not many yet."""
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)


def check(cluster: Cluster, sent: int) -> Findings:
    """Hold topics and stores against the log; the workers are stopped.

    Args:
        cluster: has settled.
        sent: records that the log must have.

    Raises:
        KafkaException, TimeoutError: a topic cannot be read.
    """
    settings = cluster.settings
    unreadable: set[tuple[int, int]] = set()
    users = read_users(settings, unreadable)
    newest = _read_changelog(settings)
    records = {key: state.decode(value) for key, (_, _, value) in newest.items()}
    audited = compare(users, records, read_lists(settings), HISTORY_LENGTH)
    ends = end_offsets(settings, settings.interactions)
    found = Findings(
        audited.events,
        audited.lost + max(0, sent - sum(ends.values())),
        audited.applied_twice,
        audited.uncovered,
        audited.wrong_histories,
    )
    _tell_users(found, users, records)
    _check_states(found, records, _models(settings))
    _check_committed(found, cluster)
    _check_stores(found, [worker.stores for worker in cluster.workers.values()], settings, newest)
    letters = _dead_letters(settings)
    found.wrong_dead_letters = len(letters ^ unreadable)
    for partition, offset in sorted(letters ^ unreadable):
        said = "is a dead letter and can be read" if (partition, offset) in letters else "is no dead letter"
        found.tell(f"{settings.interactions}[{partition}]:{offset} {said}")
    return found


_Newest = Mapping[bytes, tuple[int, int, bytes]]
"""by user key: partition, offset and value of the last changelog record"""


def _read_changelog(settings: Settings) -> dict[bytes, tuple[int, int, bytes]]:
    newest: dict[bytes, tuple[int, int, bytes]] = {}
    for partition, messages in read_topic(settings, settings.changelog, end_offsets(settings, settings.changelog)):
        for message in messages:
            key, value = message.key() or b"", message.value()
            if value is None:
                newest.pop(key, None)
            elif not key.startswith(CHANGELOG_OWN):
                newest[key] = partition, message.offset() or 0, value
    return newest


def _tell_users(found: Findings, users: Mapping[bytes, User], records: Mapping[bytes, StateRecord]) -> None:
    for key, user in users.items():
        record = records.get(key, StateRecord())
        if record.events != len(user.items):
            found.tell(
                f"{key.decode()}: {len(user.items)} events in the log up to offset {user.last_offset} of partition "
                f"{user.partition}, {record.events} in the record, up to offset {record.last_offset}"
            )


def _models(settings: Settings) -> dict[int, Model]:
    """Every model that was announced, by version."""
    store = ArtefactStore(settings.artefact_store)
    models: dict[int, Model] = {}
    for _, messages in read_topic(settings, settings.models, end_offsets(settings, settings.models)):
        for message in messages:
            if message.key() == CHAMPION.encode():
                manifest = decode_manifest(message.value() or b"")
                models[manifest.version] = load_model(manifest, store.read(manifest))
    return models


def _check_states(found: Findings, records: Mapping[bytes, StateRecord], models: Mapping[int, Model]) -> None:
    by_model: dict[int, list[tuple[bytes, StateRecord]]] = {}
    for key, record in records.items():
        if not record.forgotten and record.model_version != NO_MODEL:
            by_model.setdefault(record.model_version, []).append((key, record))
    for version, of_model in by_model.items():
        folded = fold(models[version], [Segment(record.items, 0, b"", b"", ()) for _, record in of_model])
        for (key, record), wanted_state, wanted_query in zip(of_model, folded.states, folded.queries, strict=True):
            kept = np.frombuffer(record.state + record.query, "<f4")
            wanted = np.concatenate((wanted_state, wanted_query))
            if kept.shape != wanted.shape or not np.allclose(kept, wanted, atol=_TOLERANCE):
                found.wrong_states += 1
                found.tell(f"{key.decode()}: the state is not the fold of the history under model {version}")


def _check_committed(found: Findings, cluster: Cluster) -> None:
    for partition, (committed, end) in (cluster.positions() or {}).items():
        if committed != end:
            found.uncommitted += abs(end - committed)
            found.tell(f"partition {partition}: offset {committed} is committed, the log ends at {end}")


def _check_stores(found: Findings, directories: Iterable[Path], settings: Settings, newest: _Newest) -> None:
    """Each store must be the changelog up to its own position, and some store of each partition all of it."""
    ends = end_offsets(settings, settings.changelog)
    complete: set[int] = set()
    for path in sorted(path for directory in directories for path in directory.glob("[0-9]*")):
        partition, store = int(path.name), Store(path)
        try:
            kept, position = dict(store.items()), store.changelog_position
        finally:
            store.close()
        of_partition = {key: (offset, value) for key, (p, offset, value) in newest.items() if p == partition}
        if position >= ends[partition]:
            complete.add(partition)
        wrong = {key for key, (offset, value) in of_partition.items() if offset < position and kept.get(key) != value}
        wrong |= kept.keys() - of_partition.keys()
        found.store_differences += len(wrong)
        for key in sorted(wrong):
            found.tell(f"{path}: the record of {key.decode()} is not that of the changelog")
    for partition in sorted({partition for partition, end in ends.items() if end} - complete):
        found.stores_behind += 1
        found.tell(f"no store reflects partition {partition} of the changelog up to its end, {ends[partition]}")


def _dead_letters(settings: Settings) -> set[tuple[int, int]]:
    """Partition and offset of the records that were put aside; a replay may put one aside twice."""
    letters: set[tuple[int, int]] = set()
    for _, messages in read_topic(settings, settings.dead_letters, end_offsets(settings, settings.dead_letters)):
        for message in messages:
            headers = dict(cast("list[tuple[str, bytes]]", message.headers()))
            letters.add((int(headers["partition"]), int(headers["offset"])))
    return letters
