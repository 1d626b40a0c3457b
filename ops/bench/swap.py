"""How long a worker takes to its first list, and what a swap of models does to the latency of live events.

The changelog holds a state of 50 events for each of many users, all active lately, so that all of them are owed a list
of the new model: the worker moves them in the background while events go on.
"""

import statistics
import threading
import time
from shutil import rmtree
from typing import Final, NamedTuple

import numpy as np

from ops.bench.findings import Findings, table
from ops.bench.latency import WARM_RATE, WARM_S, Percentiles, Side, drive, of_list
from ops.bench.recovery import Origin, fill
from ops.bench.rig import CATALOGUE, HISTORY_LENGTH, Rig, announce, keep_model, running
from ops.program import Program, ProgramFailed
from ops.publisher import Publisher
from schemas.event import Event, encode
from schemas.item import item_hash
from schemas.kafka import end_offsets, read_topic
from schemas.recommendation import Cause, decode
from schemas.settings import Settings
from stream_app.settings import WorkerSettings

_POLL_S: Final = 0.01
_FIRST_LIST_S: Final = 300.0
_MOVED_S: Final = 3_600.0
_MOVED: Final = "moved to the model in service"


class Swap(NamedTuple):
    """What was measured."""

    cold_s: list[float]
    """from a worker's start to its first list, without a store"""
    warm_s: list[float]
    """the same with the store that it left"""
    before: Percentiles
    during: Percentiles
    """of events that were due from the announcement on"""
    after: Percentiles
    """once all users had moved"""
    moved: int
    """lists with the cause `model`: one of each user"""
    moved_s: float
    """from the announcement to the last of them"""


def bench(users: int, rate: int, seconds: float, runs: int, broker_warm_s: float) -> Findings:
    """Measure and compare before and during; see `measure`."""
    found = measure(users, rate, seconds, runs, broker_warm_s)
    cold_s, warm_s = statistics.median(found.cold_s), statistics.median(found.warm_s)
    parts = {"before": found.before, "during": found.during, "after": found.after}
    rows = [[f"{rate:,} events/s", "p50", "p90", "p99", "p99.9 ms"]]
    rows += [[name, *(f"{value:.1f}" for value in one)] for name, one in parts.items()]
    ratio = found.before.p99_ms / found.during.p99_ms
    per_s = found.moved / found.moved_s
    return Findings(
        f"{table(rows)}\n"
        f"p99 during the swap {1 / ratio:.1f} times that before\n"
        f"{found.moved:,} users had a list of the new model without an event after {found.moved_s:.1f} s, "
        f"{per_s:,.0f} users/s\n"
        f"worker start to first list, {users:,} users: cold {cold_s:.1f} s, warm {warm_s:.1f} s",
        {
            "users": users,
            "rate": rate,
            "cold_s": [round(one, 2) for one in found.cold_s],
            "warm_s": [round(one, 2) for one in found.warm_s],
            **{name: {key: round(value, 2) for key, value in one._asdict().items()} for name, one in parts.items()},
            "ratio_during": round(1 / ratio, 2),
            "moved": found.moved,
            "moved_s": round(found.moved_s, 2),
        },
        {"swap_p99": ratio, "warm_start": cold_s / warm_s},
    )


def measure(users: int, rate: int, seconds: float, runs: int, broker_warm_s: float) -> Swap:
    """Start a worker cold and warm in turn, and swap the model under the last one.

    Args:
        users: with a state each.
        rate: events per second.
        seconds: of traffic before the announcement, after it, and after the last user has moved.
        runs: of each kind of start.
        broker_warm_s: seconds of traffic after that and before all else, in which the broker's compiler is busy.

    Raises:
        ProgramFailed: something did not come.
    """
    with running() as rig:
        first, second = keep_model(rig.settings), keep_model(rig.settings)
        announce(rig.settings, first)
        settings = rig.app("swap")
        hashes = np.array([item_hash(f"item-{row}") for row in range(CATALOGUE)], np.uint64)
        shared = WorkerSettings.model_construct(**settings.model_dump(), history_length=HISTORY_LENGTH)
        fill(shared, users, Origin(first.version, -1, hashes))
        cold_s: list[float] = []
        warm_s: list[float] = []
        for _ in range(runs):
            rmtree(rig.directory / "states", ignore_errors=True)
            for found in (cold_s, warm_s):
                found.append(_first_list_s(settings, rig))
        with Program("stream_app", rig.worker_arguments(), settings, rig.directory / "swapped.log") as worker:
            worker.await_lines(1, _FIRST_LIST_S, event=_MOVED)  # nobody has to move to its first model
            announced: list[tuple[float, float]] = []

            def swap() -> None:
                announced.append((time.monotonic(), time.time()))
                announce(settings, second)

            def swap_later(began_s: float) -> None:
                threading.Timer(began_s + WARM_S + seconds - time.monotonic(), swap).start()

            side = Side(settings, of_list)
            drive(side, WARM_RATE, broker_warm_s, 0, users)
            run = drive(side, rate, WARM_S + 2 * seconds, 1, users, swap_later)
            at_s, at_unix_s = announced[0]
            due_before = round((at_s - run.produced.began_s) * rate)
            before, during = run.latencies_ms[round(WARM_S * rate) : due_before], run.latencies_ms[due_before:]
            if not (before and during):
                raise ProgramFailed("the model was announced before or after all events that count: try more seconds")
            worker.await_lines(2, _MOVED_S, event=_MOVED)
            after = drive(side, rate, WARM_S + seconds, 2, users).latencies_ms[round(WARM_S * rate) :]
        moved, last_unix_s = _moved(settings)
        return Swap(
            cold_s,
            warm_s,
            Percentiles.of(before),
            Percentiles.of(during),
            Percentiles.of(after),
            moved,
            max(0.001, last_unix_s - at_unix_s),
        )


def _first_list_s(settings: Settings, rig: Rig) -> float:
    """Seconds from the start of a worker to the list of an event that waits for it."""
    with Publisher(settings) as publisher:
        publisher.send(settings.interactions, "user-0", encode(Event("user-0", "item-0", int(time.time() * 1000))))
    before = sum(end_offsets(settings, settings.recommendations).values())
    began_s = time.monotonic()
    with Program("stream_app", rig.worker_arguments(), settings, rig.directory / "swap.log") as worker:
        while sum(end_offsets(settings, settings.recommendations).values()) == before:
            if not worker.running or time.monotonic() - began_s > _FIRST_LIST_S:
                raise ProgramFailed(f"no list came\n{worker.log.read_text()[-2000:]}")
            time.sleep(_POLL_S)
        return time.monotonic() - began_s


def _moved(settings: Settings) -> tuple[int, float]:
    """How many lists have the cause `model`, and when the last of them was sent, in Unix seconds."""
    topic, found, last_ms = settings.recommendations, 0, 0
    for _, messages in read_topic(settings, topic, end_offsets(settings, topic)):
        for message in messages:
            if (value := message.value()) is not None and decode(value).cause is Cause.MODEL:
                found, last_ms = found + 1, max(last_ms, message.timestamp()[1])
    return found, last_ms / 1000
