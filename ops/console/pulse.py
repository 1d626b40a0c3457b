"""The numbers of the last ten minutes, second by second."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from ops.live import Answer

_CHART_S: Final = 600
_RATE_S: Final = 5
_LATENCY_S: Final = 10
_HITS_S: Final = 60


@dataclass(slots=True)
class Second:
    """What was counted in one second."""

    at: int
    """Unix seconds"""
    events: int = 0
    lists: int = 0
    foreseeable: int = 0
    """answers to events whose user had a list before"""
    hits: int = 0
    popular_hits: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    """kept for 10 s"""

    def count(self, answer: Answer) -> None:
        """Take in the answer to an event."""
        self.latencies_ms.append(answer.latency_ms)
        if answer.hit is not None:
            self.foreseeable += 1
            self.hits += answer.hit
            self.popular_hits += answer.popular_hit


class Sample(NamedTuple):
    """A second as charts show it."""

    at: int
    """Unix seconds"""
    events: int
    lists: int
    p50_ms: float | None
    p99_ms: float | None
    hit_rate: float | None
    """over the last minute, like the next"""
    popular_hit_rate: float | None
    lag: int | None


class Numbers(NamedTuple):
    """What is the case now."""

    events_per_s: float
    lists_per_s: float
    """both over 5 s"""
    p50_ms: float | None
    p99_ms: float | None
    """both over 10 s"""
    hit_rate: float | None
    popular_hit_rate: float | None
    foreseeable: int
    """all three over a minute"""
    lag: int | None


class Pulse:
    """Counts by the second.

    Args:
        clock: Unix seconds.

    Attributes:
        samples: of the seconds that are over, oldest first.
        lag: events that the workers have to do, if known; set by the caller.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.samples: deque[Sample] = deque(maxlen=_CHART_S)
        self.lag: int | None = None
        self._clock = clock
        self._second = Second(int(clock()))
        self._over: deque[Second] = deque(maxlen=_HITS_S)

    def now(self) -> Second:
        """The second that it is, to count in; those before it become samples."""
        now = int(self._clock())
        while self._second.at < now:
            self._close(self._second)
            # of a time in which the machine slept only what a chart can show
            self._second = Second(max(self._second.at + 1, now - _CHART_S))
        return self._second

    def numbers(self) -> Numbers:
        """Means and percentiles of the last seconds that are over."""
        self.now()
        lately = list(islice(reversed(self._over), _RATE_S))
        latencies_ms = [ms for second in islice(reversed(self._over), _LATENCY_S) for ms in second.latencies_ms]
        return Numbers(
            round(sum(second.events for second in lately) / max(1, len(lately)), 1),
            round(sum(second.lists for second in lately) / max(1, len(lately)), 1),
            *_percentiles(latencies_ms),
            *self._hit_rates(),
            sum(second.foreseeable for second in self._over),
            self.lag,
        )

    def _close(self, second: Second) -> None:
        self._over.append(second)
        if len(self._over) > _LATENCY_S:
            self._over[-1 - _LATENCY_S].latencies_ms.clear()
        p50_ms, p99_ms = _percentiles(second.latencies_ms)
        self.samples.append(
            Sample(second.at, second.events, second.lists, p50_ms, p99_ms, *self._hit_rates(), self.lag)
        )

    def _hit_rates(self) -> tuple[float | None, float | None]:
        if not (events := sum(second.foreseeable for second in self._over)):
            return None, None
        hits = sum(second.hits for second in self._over)
        popular_hits = sum(second.popular_hits for second in self._over)
        return round(hits / events, 4), round(popular_hits / events, 4)


def _percentiles(latencies_ms: list[float]) -> tuple[float | None, float | None]:
    if not latencies_ms:
        return None, None
    p50_ms, p99_ms = np.percentile(latencies_ms, [50, 99]).round(1).tolist()
    return p50_ms, p99_ms
