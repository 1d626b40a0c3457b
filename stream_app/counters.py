"""What an engine has done and how long it took: plain numbers that the engine writes and any thread may read.

Nothing here is done per event but one addition to a counter of milliseconds; the rest is per round.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Final

REASONS: Final = ("key", "partition", "value", "user_id", "item_id", "timestamp", "event_type", "event_id", "offset")
"""what can be wrong with a dead letter: the field of its `Malformed`; `offset` is one that a setting skips"""

_LATENCY_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ROUND_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROUND_RECORDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)


class Histogram:
    """Observations by upper bound, as Prometheus counts them."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self.sum = 0.0
        self._bounds = (*bounds, float("inf"))
        self._counts = [0] * len(self._bounds)

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value` so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.sum += times * value

    def cumulative(self) -> list[tuple[float, int]]:
        """Each upper bound with the number of observations at or below it."""
        return list(zip(self._bounds, accumulate(self._counts), strict=True))


class Stage(StrEnum):
    """What an engine can be at."""

    INTAKE = "intake"
    ADVANCE = "advance"
    COMPUTE = "compute"
    """fold and rank"""
    ENCODE = "encode"
    SEND = "send"
    STORE = "store"
    RECOVER = "recover"
    WALK = "walk"
    """look for users of another model"""
    CHECK = "check"
    """look for another writer on a changelog"""


class Stopwatch:
    """The stage that the engine is at, since when (monotonic seconds), and how long it was at each."""

    def __init__(self) -> None:
        self.stage: Stage | None = None
        self.since = time.monotonic()
        self.seconds = dict.fromkeys(Stage, 0.0)

    def enter(self, stage: Stage | None) -> None:
        """The stage before ends, and `stage` begins; None for a rest."""
        now = time.monotonic()
        if self.stage is not None:
            self.seconds[self.stage] += now - self.since
        self.stage, self.since = stage, now


@dataclass(slots=True)
class Counters:
    """What an engine has done since it started."""

    events: int = 0
    """applied"""
    lists: int = 0
    """acknowledged"""
    replayed: int = 0
    """events that came again after they were applied"""
    repeated: int = 0
    """events dropped because their event id was known"""
    late: int = 0
    """events applied after a newer one of their user, in the order of the log"""
    dead_letters: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    """by reason"""
    rebased: int = 0
    """states folded again under another model"""
    rebased_in_background: int = 0
    """of them, and of users who had no model, those who had no event"""
    healed: int = 0
    """records put right after another writer"""
    recovered: int = 0
    """changelog records read to bring partitions up to date"""
    swaps: int = 0
    """models put in service"""
    event_to_list_s: Histogram = field(default_factory=lambda: Histogram(_LATENCY_S))
    """from a record's Kafka timestamp to the acknowledgement of its list"""
    round_s: Histogram = field(default_factory=lambda: Histogram(_ROUND_S))
    slice_s: Histogram = field(default_factory=lambda: Histogram(_ROUND_S))
    """of re-basing in the background"""
    round_records: Histogram = field(default_factory=lambda: Histogram(_ROUND_RECORDS))
