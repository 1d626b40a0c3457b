"""A worker that catches up on a real Kafka, beside a bare consume and produce and the stock way in the same run."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Final, NamedTuple

from confluent_kafka import Consumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from ops.audit import audit
from ops.bench.findings import Findings, spread, table
from ops.bench.pass_through import catch_up
from ops.bench.rig import HISTORY_LENGTH, Rig, announce, keep_model, produce, running
from ops.kafka import HOST, free_port
from ops.program import Program, ProgramFailed
from ops.topics import admin, create
from schemas import recommendation
from schemas.kafka import consumer_config, end_offsets, watermarks
from schemas.settings import Settings
from schemas.topics import Topic
from stream_app.counters import Stage

_STOCK_TABLES: Final = ("states", "histories")
"""of `ops.bench.stock`"""
_TIMEOUT_S: Final = 600.0
_READY_S: Final = 60.0
_POLL_S: Final = 0.05
_BATCH: Final = 5_000

Progress = Callable[[], int]
"""how many events are done"""


class Throughput(NamedTuple):
    """What the runs gave, in events/s."""

    ours: list[float]
    bare: list[float]
    stock: list[float]
    others: dict[str, float]
    """one run each of the worker in other ways"""
    stages: dict[Stage, float]
    """seconds that the workers of `ours` were at each"""
    clean: bool
    """whether an audit of every run of ours found nothing wrong"""


def bench(events: int, catalogue: int, runs: int, stock_events: int, workers: Sequence[int]) -> Findings:
    """Measure and compare the sides; see `measure`."""
    found = measure(events, catalogue, runs, stock_events, workers)
    events_per_s, bare_per_s, stock_per_s = map(statistics.median, (found.ours, found.bare, found.stock))
    to_bare, to_stock = events_per_s / bare_per_s, events_per_s / stock_per_s
    rows = [
        ["", "events/s", "of ours", ""],
        ["worker", f"{events_per_s:,.0f}", "1", spread(found.ours)],
        ["pass-through", f"{bare_per_s:,.0f}", f"{1 / to_bare:.2f}", spread(found.bare)],
        [
            "stock Faust",
            f"{stock_per_s:,.0f}",
            f"{1 / to_stock:.3f}",
            f"{spread(found.stock)}, {stock_events:,} events",
        ],
        *([name, f"{one:,.0f}", f"{one / events_per_s:.2f}", "1 run"] for name, one in found.others.items()),
    ]
    busy_s = sum(found.stages.values())
    shares = {stage: seconds / busy_s for stage, seconds in found.stages.items() if seconds}
    where = ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in shares.items())
    return Findings(
        f"{table(rows)}\nstock Faust got {stock_events:,} events, all others {events:,}\n"
        f"where the worker's time goes: {where}",
        {
            "events_per_s": round(events_per_s),
            "pass_through_per_s": round(bare_per_s),
            "stock_per_s": round(stock_per_s),
            "ratio_to_pass_through": round(to_bare, 3),
            "ratio_to_stock": round(to_stock, 2),
            "others": {name: round(one) for name, one in found.others.items()},
            "stages": {stage: round(share, 3) for stage, share in shares.items()},
            "stock_events": stock_events,
            "runs": runs,
            "clean": found.clean,
        },
        {"throughput_to_pass_through": to_bare, "throughput_to_stock": to_stock},
        "" if found.clean else "SOMETHING IS WRONG: an audit found events lost, applied twice or without a list",
    )


def measure(events: int, catalogue: int, runs: int, stock_events: int, workers: Sequence[int]) -> Throughput:
    """Time all sides in turn, on a Kafka of their own.

    Args:
        events: that ours and the pass-through catch up on.
        catalogue: items that our model knows.
        runs: of ours, the pass-through and the stock way.
        stock_events: that the stock way gets through, for it takes long.
        workers: how many share the work, in one further run each; if any, there is also one with a list per user and
            round.

    Raises:
        ProgramFailed: a side did not get through.
    """
    with running() as rig:
        produce(rig.settings, events, catalogue=catalogue)
        announce(rig.settings, keep_model(rig.settings, catalogue))
        result = Throughput([], [], [], {}, dict.fromkeys(Stage, 0.0), clean=True)
        for run in range(runs):
            result.bare.append(catch_up(rig.app(f"bare-{run}")))
            result.stock.append(_stock(rig.app(f"stock-{run}"), rig, min(stock_events, events)))
            app = rig.app(f"worker-{run}")
            rate, stages = _worker(app, rig)
            result.ours.append(rate)
            for stage, seconds in stages.items():
                result.stages[stage] += seconds
            result = result._replace(clean=result.clean and audit(app, HISTORY_LENGTH).clean)
        if workers:
            result.others["one list per user and round"] = _latest(rig.app("latest"), rig)
        for count in workers:
            app = rig.app(f"workers-{count}", interactions=f"interactions-{count}")
            result.others[f"{count} workers"] = _workers(app, rig, count, events, catalogue)
        return result


def _worker(settings: Settings, rig: Rig) -> tuple[float, dict[Stage, float]]:
    """Events/s of a worker that catches up, and its seconds at each stage."""
    port = free_port()
    with _program("stream_app", rig.worker_arguments("--web-port", str(port)), settings, rig) as worker:
        return rate(worker, settings), _stages(port)


def _latest(settings: Settings, rig: Rig) -> float:
    with _program("stream_app", rig.worker_arguments("--emit", "latest"), settings, rig) as worker:
        covered = _Covered(settings)
        try:
            return _timed(worker, covered.events, sum(end_offsets(settings, settings.interactions).values()))
        finally:
            covered.close()


def _workers(settings: Settings, rig: Rig, count: int, events: int, catalogue: int) -> float:
    """Events/s of several workers who have shared out the partitions before the first event comes."""
    arguments = rig.worker_arguments("--processes", str(count))
    with _program("stream_app", arguments, settings, rig) as supervisor:
        _await_sharing(supervisor, count, settings.partitions)
        produce(settings, events, catalogue=catalogue)
        return rate(supervisor, settings)


def _await_sharing(supervisor: Program, count: int, partitions: int) -> None:
    """Wait until each of `count` workers has its share."""
    deadline = time.monotonic() + _READY_S
    while True:
        last = {
            line["worker"]: line["partitions"] for line in supervisor.lines() if line.get("event") == "owns partitions"
        }
        if len(last) == count and sum(map(len, last.values())) == partitions:
            return
        if not supervisor.running or time.monotonic() > deadline:
            raise ProgramFailed(f"{count} workers did not share the partitions, see {supervisor.log}")
        time.sleep(_POLL_S)


def _stock(settings: Settings, rig: Rig, events: int) -> float:
    # Faust would make them itself, and fail on each event if the broker does not tell of them at once
    changelogs = [
        Topic(f"{settings.app}-{name}-changelog", settings.partitions, {"cleanup.policy": "compact"})
        for name in _STOCK_TABLES
    ]
    with admin(settings) as client:
        create(client, changelogs)
    with _program("ops.bench.stock", [], settings, rig) as program:
        return rate(program, settings, events)


@contextmanager
def _program(module: str, arguments: Sequence[str], settings: Settings, rig: Rig) -> Iterator[Program]:
    with Program(module, arguments, settings, rig.directory / f"{settings.app}.log") as program:
        yield program


def rate(program: Program, settings: Settings, events: int | None = None) -> float:
    """Lists/s from the first one to the last of all events, or of so many."""
    ends = end_offsets(settings, settings.interactions)
    watcher = Consumer(consumer_config(settings))

    def lists() -> int:
        return sum(watermarks(watcher, settings.recommendations, partition)[1] for partition in ends)

    try:
        return _timed(program, lists, events or sum(ends.values()))
    finally:
        watcher.close()


def _timed(program: Program, progress: Progress, total: int) -> float:
    """Events/s from the first progress that is seen to `total`."""
    deadline, done, first, began = time.monotonic() + _TIMEOUT_S, 0, 0, 0.0
    while done < total:
        done = progress()
        if done and not first:
            first, began = done, time.perf_counter()
        if not program.running or time.monotonic() > deadline:
            raise ProgramFailed(f"{done} of {total} events have lists\n{program.log.read_text()[-2000:]}")
        time.sleep(_POLL_S)
    return (done - first) / (time.perf_counter() - began)


class _Covered:
    """Counts the events that are covered by lists: one covers all events of its user up to its own."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = Consumer(consumer_config(settings))
        partitions = range(settings.partitions)
        self._consumer.assign([TopicPartition(settings.recommendations, partition, 0) for partition in partitions])
        self._next = dict.fromkeys(partitions, 0)

    def events(self) -> int:
        """A worker goes through a partition in order, so the largest offset of a list says how far it is."""
        for message in self._consumer.consume(_BATCH, 0):
            if (value := message.value()) is not None and message.error() is None:
                found = recommendation.decode(value)
                self._next[found.partition] = max(self._next[found.partition], found.offset + 1)
        return sum(self._next.values())

    def close(self) -> None:
        self._consumer.close()


def _stages(port: int) -> dict[Stage, float]:
    """What the worker's own stopwatch says."""
    connection = HTTPConnection(HOST, port, timeout=_READY_S)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {
        Stage(sample.labels["stage"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "recommender_stage_seconds_total"
    }
