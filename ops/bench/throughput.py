"""A worker that catches up on a real Kafka, beside a bare consume and produce in the same run."""

import statistics
import time
from typing import Final, NamedTuple

from confluent_kafka import Consumer

from ops.audit import audit
from ops.bench.findings import Findings, spread, table
from ops.bench.pass_through import catch_up
from ops.bench.rig import HISTORY_LENGTH, Rig, announce, keep_model, produce, running
from ops.program import Program, ProgramFailed
from schemas.kafka import consumer_config, end_offsets, watermarks
from schemas.settings import Settings

_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.05


class Throughput(NamedTuple):
    """What the runs gave, in events/s."""

    ours: list[float]
    bare: list[float]
    clean: bool
    """whether an audit of every run found nothing wrong"""


def bench(events: int, catalogue: int, runs: int) -> Findings:
    """Measure and compare the sides; see `measure`."""
    ours, bare, clean = measure(events, catalogue, runs)
    events_per_s, bare_per_s = statistics.median(ours), statistics.median(bare)
    ratio = events_per_s / bare_per_s
    rows = [
        ["", "events/s", "ratio", ""],
        ["worker", f"{events_per_s:,.0f}", "1", spread(ours)],
        ["pass-through", f"{bare_per_s:,.0f}", f"{ratio:.2f}", spread(bare)],
    ]
    return Findings(
        table(rows),
        {
            "events_per_s": round(events_per_s),
            "pass_through_per_s": round(bare_per_s),
            "ratio_to_pass_through": round(ratio, 3),
            "clean": clean,
        },
        {"throughput_to_pass_through": ratio},
        "" if clean else "SOMETHING IS WRONG: an audit found events lost, applied twice or without a list",
    )


def measure(events: int, catalogue: int, runs: int) -> Throughput:
    """Time both sides in turn, on a Kafka of their own.

    Raises:
        ProgramFailed: a side did not get through.
    """
    with running() as rig:
        produce(rig.settings, events, catalogue=catalogue)
        announce(rig.settings, keep_model(rig.settings, catalogue))
        result = Throughput([], [], clean=True)
        for run in range(runs):
            result.bare.append(catch_up(rig.app(f"bare-{run}")))
            app = rig.app(f"worker-{run}")
            result.ours.append(_worker(app, rig))
            result = result._replace(clean=result.clean and audit(app, HISTORY_LENGTH).clean)
        return result


def _worker(settings: Settings, rig: Rig) -> float:
    """Lists/s of a worker that catches up, from the first acknowledged round to the last."""
    ends = end_offsets(settings, settings.interactions)
    total, lists = sum(ends.values()), 0
    log = rig.directory / f"{settings.app}.log"
    with Program("stream_app", rig.worker_arguments(), settings, log) as worker:
        watcher = Consumer(consumer_config(settings))
        deadline, first, began = time.monotonic() + _TIMEOUT_S, 0, 0.0
        while lists < total:
            lists = sum(watermarks(watcher, settings.recommendations, partition)[1] for partition in ends)
            if lists and not first:
                first, began = lists, time.perf_counter()
            if not worker.running or time.monotonic() > deadline:
                raise ProgramFailed(f"the worker sent {lists} of {total} lists\n{worker.log.read_text()[-2000:]}")
            time.sleep(_POLL_S)
        seconds = time.perf_counter() - began
        watcher.close()
        return (total - first) / seconds
