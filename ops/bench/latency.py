"""From an event to its list at a steady rate, beside a pass-through that gets the same traffic.

An open loop: each event is due at a fixed time, however slow the service is, and its latency counts from then, so that
a stall shows in every event that it delayed (no coordinated omission). The producer is a process of its own.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Final, NamedTuple, Self

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition

from ops.bench.findings import Findings, table
from ops.bench.rig import USERS, announce, keep_model, running, visits
from ops.program import Program, ProgramFailed
from ops.publisher import Publisher
from schemas import event, recommendation
from schemas.event import Event
from schemas.kafka import consumer_config, end_offsets
from schemas.packing import unpack_map
from schemas.settings import Settings

WARM_S: Final = 2.0
"""of traffic at the beginning of each run that does not count"""
WARM_RATE: Final = 1_000
"""events per second before all runs: a new broker's compiler takes half a core for a while"""
_QUANTILES: Final = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}
_JUDGED: Final = "p50_ms"
"""the others move with whatever else the machine does"""
_BATCH: Final = 5_000
_POLL_S: Final = 0.1
_LAST_S: Final = 60.0
"""how long the last list may take"""
_READY_S: Final = 60.0
_START_S: Final = 1.0
"""in which the producer connects"""
_ENCODED_S: Final = 2e-5
"""in which it makes an event"""

EventId = Callable[[bytes], str | None]
"""reads the id of the event out of what came for it"""
_OF_A_MODEL: Final = b"\xa5cause\xa5model"
"""in an encoded list that no event asked for"""


class Percentiles(NamedTuple):
    """Latencies of one run, or the medians of several."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float

    @classmethod
    def of(cls, latencies_ms: Sequence[float]) -> Self:
        """The smallest latencies that so many of all do not exceed: always one that was measured."""
        ordered = np.sort(np.asarray(latencies_ms))
        ranks = [int(np.ceil(quantile * len(ordered))) - 1 for quantile in _QUANTILES.values()]
        return cls(*(float(ordered[rank]) for rank in ranks))

    @classmethod
    def median(cls, runs: Sequence[Self]) -> Self:
        """Each of them over several runs."""
        return cls(*(statistics.median(values) for values in zip(*runs, strict=True)))


class Produced(NamedTuple):
    """What a producer did."""

    began_s: float
    """when event 0 was due, in monotonic seconds, which all processes share"""
    late_s: float
    """the most that an event was handed to the client after it was due"""


class Driven(NamedTuple):
    """A run, the events that warm it up included."""

    latencies_ms: list[float]
    """of each event, in order"""
    produced: Produced


class Side(NamedTuple):
    """One way from `interactions` to `recommendations`."""

    settings: Settings
    event_id: EventId


def bench(rates: Sequence[int], seconds: float, runs: int, warm_s: float) -> Findings:
    """Measure both sides in turn at each rate, after `warm_s` seconds of traffic for each side.

    Raises:
        ProgramFailed: a side did not get through.
    """
    found, late_s = measure(rates, seconds, runs, warm_s)
    rows = [["events/s", "", "p50", "p90", "p99", "p99.9 ms"]]
    for rate, (ours, bare) in found.items():
        rows += [[f"{rate:,}", "worker", *(f"{value:.1f}" for value in ours)]]
        rows += [["", "pass-through", *(f"{value:.1f}" for value in bare)]]
    last = f"median of {runs} runs of {seconds:g} s, events at most {1000 * late_s:.1f} ms after they were due"
    return Findings(
        f"{table(rows)}\n{last}",
        {
            "rates": {
                str(rate): {**_rounded(ours), "pass_through": _rounded(bare)} for rate, (ours, bare) in found.items()
            },
            "runs": runs,
            "late_ms": round(1000 * late_s, 1),
        },
        {f"latency_{rate}": getattr(bare, _JUDGED) / getattr(ours, _JUDGED) for rate, (ours, bare) in found.items()},
    )


def measure(
    rates: Sequence[int], seconds: float, runs: int, warm_s: float
) -> tuple[dict[int, tuple[Percentiles, Percentiles]], float]:
    """The medians of the worker and of the pass-through at each rate, and the most that an event was produced late."""
    with running() as rig, ExitStack() as programs:
        announce(rig.settings, keep_model(rig.settings))
        ours = Side(rig.app("latency", interactions="latency-interactions"), of_list)
        bare = Side(rig.app("bare", interactions="bare-interactions"), _of_event)
        for settings, module, arguments, ready in (
            (ours.settings, "stream_app", rig.worker_arguments(), "owns partitions"),
            (bare.settings, "ops.bench.pass_through", [], "ready"),
        ):
            log = rig.directory / f"{settings.app}.log"
            program = programs.enter_context(Program(module, arguments, settings, log))
            program.await_lines(1, _READY_S, event=ready)
        sides: Mapping[str, Side] = {"ours": ours, "bare": bare}
        found: dict[int, tuple[Percentiles, Percentiles]] = {}
        late_s, number = 0.0, 0
        for side in sides.values():
            drive(side, WARM_RATE, warm_s, number)
        for rate in rates:
            percentiles: dict[str, list[Percentiles]] = {name: [] for name in sides}
            for _ in range(runs):
                for name, side in sides.items():
                    number += 1
                    run = drive(side, rate, WARM_S + seconds, number)
                    percentiles[name].append(Percentiles.of(run.latencies_ms[round(WARM_S * rate) :]))
                    late_s = max(late_s, run.produced.late_s)
            found[rate] = Percentiles.median(percentiles["ours"]), Percentiles.median(percentiles["bare"])
        return found, late_s


def drive(
    side: Side, rate: int, seconds: float, number: int, users: int = USERS, begun: Callable[[float], None] | None = None
) -> Driven:
    """Send traffic and wait for its answers.

    Args:
        side: whose answers are awaited.
        rate: events per second.
        seconds: of traffic.
        number: of this run, unlike that of any other.
        users: that the events are of.
        begun: called when event 0 is not due yet, with the monotonic seconds at which it will be.

    Raises:
        ProgramFailed: something did not come.
    """
    count, consumer = round(seconds * rate), Consumer(consumer_config(side.settings))
    ends = end_offsets(side.settings, side.settings.recommendations)
    try:
        consumer.assign([TopicPartition(side.settings.recommendations, *end) for end in ends.items()])
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(os.getpid).result()  # it takes seconds to start on a busy machine
            began_s = time.monotonic() + _START_S + count * _ENCODED_S
            producing = pool.submit(send_when_due, side.settings, rate, count, number, users, began_s)
            if begun is not None:
                begun(began_s)
            received: list[tuple[float, bytes]] = []
            deadline = None
            while len(received) < count:
                if producing.done() and deadline is None:
                    producing.result()
                    deadline = time.monotonic() + _LAST_S
                if deadline is not None and time.monotonic() > deadline:
                    raise ProgramFailed(f"{len(received)} of {count} answers came from {side.settings.app}")
                if (first := consumer.poll(_POLL_S)) is None:
                    continue
                messages = [first, *consumer.consume(_BATCH, 0)]
                now_s = time.monotonic()
                for message in messages:
                    if (error := message.error()) is not None:
                        raise KafkaException(error)
                    if _OF_A_MODEL not in (value := message.value() or b""):
                        received.append((now_s, value))
            produced: Produced = producing.result()
    finally:
        consumer.close()
    return Driven(latencies_ms(received, side.event_id, rate, count, number, produced.began_s), produced)


def send_when_due(settings: Settings, rate: int, count: int, number: int, users: int, began_s: float) -> Produced:
    """Send `count` events, event i when it is due, i / rate after `began_s`, and wait for their acknowledgement."""
    values = [
        (user, event.encode(Event(user, item, int(time.time() * 1000), event_id=f"{number}-{nth}")))
        for nth, (user, item) in enumerate(visits(count, users, seed=number))
    ]
    late_s = 0.0
    with Publisher(settings) as publisher:
        publisher.poll(0)
        for nth, (user, value) in enumerate(values):
            due_s = began_s + nth / rate
            while (wait_s := due_s - time.monotonic()) > 0:
                time.sleep(wait_s)
            late_s = max(late_s, -wait_s)
            publisher.send(settings.interactions, user, value)
    return Produced(began_s, late_s)


def latencies_ms(
    received: Sequence[tuple[float, bytes]], event_id: EventId, rate: int, count: int, number: int, began_s: float
) -> list[float]:
    """How long each event of a run took from when it was due to the first answer to it.

    Raises:
        ProgramFailed: an event has none.
    """
    first: dict[str, float] = {}
    for at_s, value in received:
        first.setdefault(event_id(value) or "", at_s)
    ids = [f"{number}-{nth}" for nth in range(count)]
    if missing := sum(one not in first for one in ids):
        raise ProgramFailed(f"{missing} of {count} events have no answer")
    return [1000 * (first[one] - began_s - nth / rate) for nth, one in enumerate(ids)]


def of_list(value: bytes) -> str | None:
    """The id of the event that a list answers."""
    return recommendation.decode(value).event_id


def _of_event(value: bytes) -> str | None:
    fields = unpack_map(value, "value")
    return event.decode(value, str(fields["user_id"]).encode(), 0).event_id


def _rounded(percentiles: Percentiles) -> dict[str, float]:
    return {name: round(value, 2) for name, value in percentiles._asdict().items()}
