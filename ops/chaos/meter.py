"""What a process takes of the machine over time, and whether that grows."""

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_WARM_UP: Final = 0.2
"""share of a process's life in which caches fill"""
_LEAST_S: Final = 600.0
"""before it, caches and memtables still fill"""
_MOST_GROWTH: Final = 0.1
_SPARE_BYTES: Final = 16 << 20
_SPARE_HANDLES: Final = 8
"""growth that is none"""
_KIB: Final = 1024
_MIB: Final = 1 << 20


class Sample(NamedTuple):
    """What a process had at a moment."""

    at_s: float
    """monotonic seconds"""
    memory: int
    """resident bytes"""
    handles: int
    """open files and sockets"""


class Trend(NamedTuple):
    """The medians of the first and the last third of the samples after the warm-up."""

    seconds: float
    """that the samples span"""
    memory_first: float
    memory_last: float
    handles_first: float
    handles_last: float

    @property
    def flat(self) -> bool | None:
        """Whether neither grows; None when the time is too short to say."""
        if self.seconds < _LEAST_S:
            return None
        return (
            self.memory_last <= self.memory_first * (1 + _MOST_GROWTH) + _SPARE_BYTES
            and self.handles_last <= self.handles_first + _SPARE_HANDLES
        )

    def figures(self) -> dict[str, float | bool | None]:
        """For `--json`, memory in MiB."""
        return {
            "seconds": round(self.seconds),
            "memory_first_mib": round(self.memory_first / _MIB, 1),
            "memory_last_mib": round(self.memory_last / _MIB, 1),
            "handles_first": self.handles_first,
            "handles_last": self.handles_last,
            "flat": self.flat,
        }


def sample(pid: int) -> Sample | None:
    """What a process has now; None when there is none."""
    process = Path("/proc") / str(pid)
    with suppress(OSError, StopIteration):
        status = (process / "status").read_text().splitlines()
        resident = next(line for line in status if line.startswith("VmRSS:"))
        handles = sum(1 for _ in (process / "fd").iterdir())
        return Sample(time.monotonic(), int(resident.split()[1]) * _KIB, handles)
    return None


def trend(samples: Sequence[Sample]) -> Trend | None:
    """How the samples of one process go, oldest first; None for too few."""
    warm = samples[int(len(samples) * _WARM_UP) :]
    third = len(warm) // 3
    if not third:
        return None
    first, last = warm[:third], warm[-third:]
    return Trend(
        samples[-1].at_s - samples[0].at_s,
        statistics.median(s.memory for s in first),
        statistics.median(s.memory for s in last),
        statistics.median(s.handles for s in first),
        statistics.median(s.handles for s in last),
    )
