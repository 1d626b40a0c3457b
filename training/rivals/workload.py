"""What the rivals are timed on: windows of a log, chosen so that a step has the same number of events at any length."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.log.histories import Histories, Spans

USERS, ITEMS = 6_040, 3_416
"""of MovieLens 1M, five events and more of each"""
MEDIAN_EVENTS, SPREAD, FEWEST, MOST = 96, 1.04, 18, 2_300
"""of a user of MovieLens 1M: lognormal with a mean of 163"""


@dataclass(frozen=True)
class Workload:
    """One step's windows, in random order."""

    events: NDArray[np.int32]
    """[E] item of each event of the log."""
    windows: Spans
    items: int
    """N, of the catalogue."""
    length: int
    """L, the most inputs of a window."""

    @property
    def tokens(self) -> int:
        """Inputs of all windows."""
        return int((self.windows.lengths - 1).sum())

    @property
    def padded_length(self) -> int:
        """The power of two that L is padded to by the authors."""
        return int(2 ** (self.length - 1).bit_length())

    @property
    def filled(self) -> float:
        """The share of a batch padded to that length that is no padding."""
        return self.tokens / (len(self.windows) * self.padded_length)

    def first(self, windows: int) -> "Workload":
        """Only so many of the windows, at least one."""
        return Workload(self.events, self.windows[: max(1, windows)], self.items, self.length)


def synthetic_log(seed: int = 0) -> Histories:
    """A log with the sizes of MovieLens 1M, in which items follow each other at random."""
    random = np.random.default_rng(seed)
    counts = np.clip(random.lognormal(np.log(MEDIAN_EVENTS), SPREAD, USERS), FEWEST, MOST).astype(np.int64)
    ends = np.cumsum(counts)
    weights = 1 / np.arange(100, 100 + ITEMS)
    events = random.choice(ITEMS, ends[-1], p=weights / weights.sum()).astype(np.int32)
    return Histories(
        events, np.arange(len(events)), Spans(ends - counts, ends), [f"item {item}" for item in range(ITEMS)]
    )


def newest_windows(log: Histories, length: int, seed: int = 0) -> Workload:
    """Each user's newest events, at most `length` inputs; one window for each user who has two events."""
    users = log.users[np.flatnonzero(log.users.lengths > 1)]
    return _shuffled(log, Spans(np.maximum(users.begin, users.end - length - 1), users.end), length, seed)


def full_windows(log: Histories, length: int, seed: int = 0) -> Workload:
    """All windows are full, whoever the events are of: what length alone costs, without padding."""
    begin = np.arange(0, max(1, len(log.items) - length), length)
    return _shuffled(log, Spans(begin, np.minimum(begin + length + 1, len(log.items))), length, seed)


def of_tokens(workload: Workload, tokens: int) -> Workload:
    """The first windows that have about so many inputs together: not fewer, if there are as many."""
    return workload.first(int(np.searchsorted(np.cumsum(workload.windows.lengths - 1), tokens)) + 1)


def _shuffled(log: Histories, windows: Spans, length: int, seed: int) -> Workload:
    order = np.random.default_rng(seed).permutation(len(windows))
    return Workload(log.items, windows[order], len(log.item_ids), length)
