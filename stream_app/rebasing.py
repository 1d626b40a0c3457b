"""Moving users to a new model in the background: who moves, how many at a time, and how far it is.

A walk through the stores of the open partitions, each in the order of its keys. The head of a record tells whether its
user moves: a state of another model, and a last event within the window. Who has an event moves with it only where the
walk will not come by any more. The walk keeps no iterator: between two slices stores change, close and open.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from schemas.state import FORGOTTEN, decode_head

_LEAST_STEPS: Final = 1_000
"""of a slice: fewer would cost less than waiting for their acknowledgement"""
_FIRST_STEPS_PER_S: Final = 100_000.0
_LOOKED_AT: Final = 64
"""records between two looks at the clock"""
_REPORT_S: Final = 5.0
_DAY_MS: Final = 86_400_000
_log = structlog.get_logger()

Scan = Callable[[int, bytes], Iterator[tuple[bytes, bytes]]]
"""keys and encoded records of a partition behind a key, by key"""


@dataclass(slots=True)
class _Walk:
    """How far one partition is."""

    expected: int
    after: bytes = b""
    looked: int = 0
    over: bool = False


class Rebasing:
    """The walk for the model in service.

    Args:
        window_days: since the last event of those who move; 0 for nobody.
        most_steps: model steps of a slice at most.
        estimate: about how many users a partition has.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        window_days: float,
        most_steps: int,
        estimate: Callable[[int], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window_ms = window_days * _DAY_MS
        self._most_steps = most_steps
        self._estimate = estimate
        self._clock = clock
        self._steps_per_s = _FIRST_STEPS_PER_S
        self._walks: dict[int, _Walk] = {}
        self._under_way = False
        self._users = 0
        self._began = self._reported = 0.0

    @property
    def under_way(self) -> bool:
        """Whether users may be left to move; read in any thread."""
        return self._under_way

    @property
    def ratio(self) -> float:
        """Share of the open partitions' users that the walk has looked at, about; 1 when it is over. In any thread."""
        walks = list(self._walks.values())
        if not self._under_way or not walks:
            return 0.0 if self._under_way else 1.0
        expected = sum(walk.looked if walk.over else max(walk.looked + 1, walk.expected) for walk in walks)
        return sum(walk.looked for walk in walks) / max(1, expected)

    def will_come_to(self, partition: int, key: bytes) -> bool:
        """Whether this user is still ahead of the walk."""
        if not self._under_way:
            return False
        walk = self._walks.get(partition)
        return walk is not None and not walk.over and key > walk.after

    def steps_within(self, budget_s: float) -> int:
        """How many model steps fit into `budget_s`: as the last slice told, 100,000 a second if there was none yet."""
        return min(self._most_steps, max(_LEAST_STEPS, int(self._steps_per_s * budget_s)))

    def begin(self, partitions: Iterable[int]) -> None:
        """Walk through these partitions from their first user on: another model serves."""
        self._walks.clear()
        self.add(partitions)
        self._start()

    def add(self, partitions: Iterable[int]) -> None:
        """Walk through these too, from their first user on."""
        for partition in partitions:
            self._walks[partition] = _Walk(self._estimate(partition))
            if not self._under_way:
                self._start()

    def drop(self, partition: int) -> None:
        """A partition is closed."""
        self._walks.pop(partition, None)

    def pick(self, scan: Scan, version: int, now_ms: float, budget_s: float) -> tuple[dict[int, list[bytes]], int]:
        """Look at the next users.

        Args:
            scan: reads the stores.
            version: of the model in service.
            now_ms: Unix time.
            budget_s: what the slice may take.

        Returns:
            the keys of those who move now, by partition, and the model steps that they take, about as many as fit.
        """
        most = self.steps_within(budget_s)
        until, oldest_ms = self._clock() + budget_s / 2, now_ms - self._window_ms
        picked: dict[int, list[bytes]] = {}
        steps = 0
        for partition, walk in self._walks.items():
            if walk.over:
                continue
            for key, value in scan(partition, walk.after):
                walk.after = key
                walk.looked += 1
                head = decode_head(value)
                if head.model_version != version and head.last_time_ms >= oldest_ms and not head.flags & FORGOTTEN:
                    picked.setdefault(partition, []).append(key)
                    steps += head.history_length
                    if steps >= most:
                        return picked, steps
                if walk.looked % _LOOKED_AT == 0 and self._clock() > until:
                    return picked, steps
            walk.over = True
        return picked, steps

    def moved(self, users: int, steps: int, seconds: float) -> None:
        """These users have their new lists; that took so long."""
        self._users += users
        if steps:
            self._steps_per_s = steps / max(1e-6, seconds)
        now = self._clock()
        if all(walk.over for walk in self._walks.values()):
            self._under_way = False
            _log.info("moved to the model in service", **self._progress(now))
        elif now - self._reported > _REPORT_S:
            self._reported = now
            ratio = self.ratio
            left_s = round((1 - ratio) * (now - self._began) / max(1e-6, ratio))
            _log.info("moving to the model in service", percent=int(100 * ratio), eta_s=left_s, **self._progress(now))

    def _start(self) -> None:
        self._under_way = self._window_ms > 0
        self._users, self._began = 0, self._clock()
        self._reported = self._began

    def _progress(self, now: float) -> dict[str, float]:
        seconds = max(1e-3, now - self._began)
        return {"users": self._users, "users_per_s": round(self._users / seconds), "seconds": round(seconds, 1)}
