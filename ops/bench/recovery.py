"""A new worker that rebuilds its stores from the changelog, beside a bare read and a bare write of the same states.

Each side runs in a process of its own, so that its CPU time and memory are its own.
"""

import multiprocessing
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition
from numpy.typing import NDArray

from ops.bench.findings import Findings, spread, table
from ops.kafka import LocalKafka
from ops.publisher import Publisher
from ops.topics import admin, create
from schemas import state
from schemas.kafka import consumer_config, end_offsets
from schemas.state import CHANGELOG_IDENTITY, RECENT_EVENT_IDS, StateRecord
from schemas.topics import topics
from stream_app.broker import Outgoing
from stream_app.engine import Engine
from stream_app.kafka_broker import KafkaBroker
from stream_app.settings import WorkerSettings
from stream_app.store import Store
from stream_app.user_table import TableIdentity
from stream_app.worker import tune_interpreter

_EVENTS: Final = 50
_STATE_FLOATS: Final = 512
_QUERY_FLOATS: Final = 64
_ROUND: Final = 300
"""users of a partition in one round: their last offsets are in no order"""
_BLOCK: Final = 3_000
_SPAN_S: Final = 86_400
"""in which the events were"""
_READ: Final = 1_000
_TIMEOUT_S: Final = 120.0


class Side(NamedTuple):
    """What one side took for all states."""

    states_per_s: float
    mb_per_s: float
    cpu_s: float
    peak_mib: int
    """resident memory, most of which 16 partitions' write buffers are"""


class Recovery(NamedTuple):
    """All runs of each side."""

    states: int
    bytes: int
    """keys and values"""
    worker: list[Side]
    read: list[Side]
    """a consumer that takes all partitions and looks at nothing"""
    write: list[Side]
    """a store for each partition, filled one after the other, durable at the end"""


def bench(users: int, partitions: int, runs: int) -> Findings:
    """Measure and compare the sides; see `measure`."""
    found = measure(users, partitions, runs)
    sides = {"worker": found.worker, "bare read": found.read, "bare write": found.write}
    medians = {name: statistics.median(one.states_per_s for one in of_side) for name, of_side in sides.items()}
    state_mb = found.bytes / found.states / 1e6
    rows = [["", "states/s", "MB/s", "s of CPU", "MiB at most", "states/s"]]
    rows += [
        [
            name,
            f"{medians[name]:,.0f}",
            f"{medians[name] * state_mb:,.0f}",
            f"{statistics.median(one.cpu_s for one in of_side):.1f}",
            f"{max(one.peak_mib for one in of_side):,}",
            spread([one.states_per_s for one in of_side]),
        ]
        for name, of_side in sides.items()
    ]
    ratio = medians["worker"] / medians["bare read"]
    return Findings(
        f"{table(rows)}\n{found.states:,} states, {found.bytes / 1e6:,.0f} MB",
        {
            "states": found.states,
            "bytes": found.bytes,
            **{name.replace(" ", "_"): [one._asdict() for one in of_side] for name, of_side in sides.items()},
            "ratio_to_read": round(ratio, 3),
        },
        {"recovery_to_read": ratio},
    )


def measure(users: int, partitions: int, runs: int) -> Recovery:
    """Fill a changelog of a Kafka of its own and time the sides in turn.

    Raises:
        OSError: the disk is full: the changelog and a store are about 3.2 KB a user each.
    """
    with (
        tempfile.TemporaryDirectory(prefix="recommender-bench-") as name,
        LocalKafka(Path(name) / "kafka") as kafka,
    ):
        # not from the environment or a .env file, which are about another cluster
        settings = WorkerSettings.model_construct(
            broker=kafka.bootstrap, partitions=partitions, worker_id="bench", data_dir=Path(name)
        )
        with admin(settings.broker) as client:
            create(client, topics(settings))
        size = fill(settings, users)
        result = Recovery(users, size, [], [], [])
        sides: dict[Callable[[WorkerSettings, int], None], list[Side]] = {
            _read: result.read,
            _write: result.write,
            _recover: result.worker,
        }
        for run in range(runs):
            for side, found in sides.items():
                directory = Path(name) / f"{side.__name__}-{run}"
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    own = settings.model_copy(update={"data_dir": directory})
                    seconds, cpu_s, peak_mib = pool.submit(_timed, side, own, users).result()
                found.append(Side(users / seconds, size / 1e6 / seconds, cpu_s, peak_mib))
                shutil.rmtree(directory, ignore_errors=True)  # the bare read has none
        return result


class Origin(NamedTuple):
    """What filled states come from."""

    version: int = 1
    """of the model"""
    last_offset: int | None = None
    """of the last event; a different one for each user if omitted"""
    hashes: NDArray[np.uint64] | None = None
    """u64[N], of the items in the histories; any if omitted"""


ANY: Final = Origin()


def fill(settings: WorkerSettings, users: int, origin: Origin = ANY) -> int:
    """Put a state of 50 events of each user on the changelog, as workers leave it; bytes of keys and values."""
    broker, size = KafkaBroker(settings), 0
    identity = TableIdentity.of(broker.identity(), settings.history_length)
    own = Outgoing(states=[(CHANGELOG_IDENTITY, identity.on_changelog)])
    broker.send(dict.fromkeys(range(settings.partitions), own))
    with Publisher(settings, linger_ms=20) as publisher:
        for first in range(0, users, _BLOCK):
            for user, value in enumerate(_records(first, min(_BLOCK, users - first), origin), first):
                key = f"user-{user}"
                publisher.send(settings.changelog, key, value)
                size += len(key) + len(value)
    return size


def _records(first: int, count: int, origin: Origin) -> list[bytes]:
    random = np.random.default_rng(first)
    floats = random.standard_normal((count, _STATE_FLOATS + _QUERY_FLOATS), np.float32)
    hashes = random.integers(0, 1 << 63, (count, _EVENTS + RECENT_EVENT_IDS), np.uint64)
    if origin.hashes is not None:
        hashes[:, :_EVENTS] = random.choice(origin.hashes, (count, _EVENTS))
    now_s = int(time.time())
    times = np.sort(random.integers(now_s - _SPAN_S, now_s, (count, _EVENTS), np.uint32), axis=1)
    offsets = np.concatenate([at + random.permutation(_ROUND) for at in range(first, first + count, _ROUND)])
    return [
        state.encode(
            StateRecord(
                model_version=origin.version,
                last_offset=_EVENTS * int(offsets[one]) if origin.last_offset is None else origin.last_offset,
                last_time_ms=1000 * int(times[one, -1]),
                events=_EVENTS,
                items=hashes[one, :_EVENTS].tobytes(),
                times=times[one].tobytes(),
                kinds=bytes(_EVENTS),
                event_ids=hashes[one, _EVENTS:].tobytes(),
                state=floats[one, :_STATE_FLOATS].tobytes(),
                query=floats[one, _STATE_FLOATS:].tobytes(),
            )
        )
        for one in range(count)
    ]


def _timed(
    side: Callable[[WorkerSettings, int], None], settings: WorkerSettings, states: int
) -> tuple[float, float, int]:
    """Seconds, CPU seconds and peak MiB of one side, in this process."""
    tune_interpreter()
    began, cpu = time.perf_counter(), time.process_time()
    side(settings, states)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return seconds, cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _recover(settings: WorkerSettings, states: int) -> None:
    """What a worker does when the group gives it all partitions."""
    engine = Engine(settings, KafkaBroker(settings), lambda _: True)
    recovered = engine.own(range(settings.partitions))
    assert recovered == states + settings.partitions, f"{recovered} records for {states} states"


def _read(settings: WorkerSettings, states: int) -> None:
    ends = end_offsets(settings, settings.changelog)
    consumer = Consumer(consumer_config(settings))
    try:
        consumer.assign([TopicPartition(settings.changelog, partition, 0) for partition in ends])
        left, deadline = states, time.monotonic() + _TIMEOUT_S
        while left > 0 and time.monotonic() < deadline:
            for message in consumer.consume(_READ, 0.1):
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                left -= 1
        assert left <= 0, f"{left} states were not read"
    finally:
        consumer.close()


def _write(settings: WorkerSettings, states: int) -> None:
    values = _records(0, _BLOCK, ANY)
    for partition in range(settings.partitions):
        store = Store(settings.data_dir / str(partition))
        store.begin_bulk()
        mine = range(partition, states, settings.partitions)
        for at in range(0, len(mine), _READ):
            chunk = {f"user-{user}".encode(): values[user % _BLOCK] for user in mine[at : at + _READ]}
            store.write(chunk, at + len(chunk), logged=False)
        store.flush()
