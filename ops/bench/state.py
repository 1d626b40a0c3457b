"""What a user costs: bytes on disk, in memory and on the changelog, and what an event adds there by codec.

The events come in two kinds of rounds, as of a worker that catches up and of one that follows live traffic: a batch of
many records compresses better than one of few.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from confluent_kafka import Producer

from ops.bench.findings import Findings, table
from ops.bench.rig import PARTITIONS, Rig, announce, keep_model, produce, running
from ops.bench.throughput import rate
from ops.chaos.meter import sample
from ops.program import Program, ProgramFailed
from ops.topics import admin
from schemas.kafka import end_offsets, producer_config, read_topic
from schemas.settings import Settings
from schemas.state import CHANGELOG_OWN
from stream_app.store import Store

_CODECS: Final = ("none", "lz4", "zstd")
_ROUNDS: Final = {"large": 1_000, "small": 10}
"""records that are sent together"""
_COPIED: Final = 20_000
"""records whose compression is measured"""
_READY_S: Final = 60.0
_FLUSH_S: Final = 60.0

Pair = tuple[bytes, bytes]


class State(NamedTuple):
    """What was measured, in bytes."""

    users: int
    events: int
    record: int
    """of a user on average: key and value"""
    disk: int
    """of a user, in RocksDB after compaction"""
    memory: int
    """by which the worker grew, for each user"""
    resident: int
    """of the worker at the end"""
    changelog: int
    """that the worker appended to the changelog for each event, as the broker keeps it"""
    codec: str
    """that the worker uses"""
    codecs: Mapping[str, Mapping[str, float]]
    """bytes of a record on the changelog by codec and size of rounds"""


def bench(users: int, events: int) -> Findings:
    """Measure it; see `measure`."""
    found = measure(users, events)
    rows = [
        ["bytes", ""],
        ["a user's record, key and value", f"{found.record:,}"],
        ["a user on disk, after compaction", f"{found.disk:,}"],
        ["a user in memory", f"{found.memory:,}"],
        ["an event on the changelog, catching up", f"{found.changelog:,}"],
    ]
    codec_rows = [["a record on the changelog, bytes", *(f"{name} rounds" for name in _ROUNDS)]]
    codec_rows += [
        [f"{codec}, the worker's" if codec == found.codec else codec, *(f"{sizes[name]:,.0f}" for name in _ROUNDS)]
        for codec, sizes in found.codecs.items()
    ]
    return Findings(
        f"{table(rows)}\n{found.users:,} users, {found.events:,} events\n"
        f"the worker had {found.resident / 2**20:,.0f} MiB\n\n{table(codec_rows)}",
        found._asdict(),
        {
            "state_on_disk": found.record / found.disk,
            "state_on_changelog": found.record / found.codecs[found.codec]["large"],
        },
    )


def measure(users: int, events: int) -> State:
    """Let a worker take in events of at most so many users, and look at what it leaves.

    Raises:
        ProgramFailed: it did not get through.
    """
    with running() as rig:
        announce(rig.settings, keep_model(rig.settings))
        settings = rig.app("state")
        with Program("stream_app", rig.worker_arguments(), settings, rig.directory / "state.log") as worker:
            worker.await_lines(1, _READY_S, event="owns partitions")
            before = _resident(worker)
            produce(settings, events, users)
            rate(worker, settings)
            resident = _resident(worker)
            if worker.stop():
                raise ProgramFailed(f"the worker did not stop in order, see {worker.log}")
        appended = _size(rig.kafka.data_dir / "log", settings.changelog)
        newest, last = _records(settings)
        stores = [rig.directory / "states" / settings.app / "bench" / str(one) for one in range(PARTITIONS)]
        for path in stores:
            _compact(path)
        on_disk = sum(file.stat().st_size for path in stores for file in path.glob("*.sst"))
        return State(
            len(newest),
            events,
            round(statistics.mean(len(key) + len(value) for key, value in newest.items())),
            round(on_disk / len(newest)),
            round((resident - before) / len(newest)),
            resident,
            round(appended / events),
            str(producer_config(settings).get("compression.type", "none")),
            _codecs(settings, rig, last),
        )


def _resident(worker: Program) -> int:
    if (found := sample(worker.pid)) is None:
        raise ProgramFailed(f"this system does not tell the memory of a process, or the worker died, see {worker.log}")
    return found.memory


def _records(settings: Settings) -> tuple[dict[bytes, bytes], list[Pair]]:
    """Every user's newest record, and the last records of the changelog as they came."""
    newest: dict[bytes, bytes] = {}
    all_of_users: list[Pair] = []
    for _, messages in read_topic(settings, settings.changelog, end_offsets(settings, settings.changelog)):
        for message in messages:
            key, value = message.key() or b"", message.value()
            if value is not None and not key.startswith(CHANGELOG_OWN):
                newest[key] = value
                all_of_users.append((key, value))
        all_of_users = all_of_users[-_COPIED:]
    return newest, all_of_users


def _compact(path: Path) -> None:
    store = Store(path)
    try:
        store.compact()
    finally:
        store.close()


def _codecs(settings: Settings, rig: Rig, records: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Copy records to topics of their own, and see what each takes there."""
    found: dict[str, dict[str, float]] = {codec: {} for codec in _CODECS}
    for codec in _CODECS:
        for name, together in _ROUNDS.items():
            topic = f"copy-{codec}-{name}"
            with admin(settings.broker) as client:
                client.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
            producer = Producer(producer_config(settings) | {"linger.ms": 0, "compression.type": codec})
            copied = records if together > 100 else records[: len(records) // 10]
            for first in range(0, len(copied), together):
                pairs = [{"key": key, "value": value} for key, value in copied[first : first + together]]
                producer.produce_batch(topic, pairs, partition=0)
                if producer.flush(_FLUSH_S):
                    raise ProgramFailed("the copy could not be delivered")
            found[codec][name] = round(_size(rig.kafka.data_dir / "log", topic) / len(copied), 1)
    return found


def _size(directory: Path, topic: str) -> int:
    """Bytes of a topic's records as the broker keeps them."""
    return sum(file.stat().st_size for file in directory.glob(f"{topic}-*/*.log"))
