"""What will happen, drawn from a seed: the same seed gives the same faults in the same order."""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SESSION_S: Final = 6.0
"""the shortest session timeout that brokers allow by default: a silent worker loses its partitions after it"""


class Kind(StrEnum):
    """What a fault is."""

    KILL = "kill"
    """SIGKILL to a worker, which is started again"""
    STOP = "stop"
    """SIGTERM to a worker, which must end with status 0, and is started again"""
    FREEZE = "freeze"
    """SIGSTOP to a worker for longer than its session, then SIGCONT: a zombie"""
    ABSENCE = "absence"
    """SIGKILL to a worker, which stays away for longer than its session: the others take over"""
    JOIN = "join"
    """one worker more, which leaves again"""
    REBALANCE = "rebalance"
    """SIGKILL to a worker while another one joins"""
    RECOVERY = "recovery"
    """a worker's stores are deleted, and SIGKILL comes again while it recovers them"""
    WIPE = "wipe"
    """a worker's stores are deleted while it is down"""
    CLOCK = "clock"
    """the clock of the producer jumps, and jumps back"""
    SWAP = "swap"
    """another model becomes the champion"""
    BROKER_KILL = "broker-kill"
    """SIGKILL to the broker, which is started again"""
    BROKER_STOP = "broker-stop"
    """SIGTERM to the broker, which is started again"""
    BROKER_PAUSE = "broker-pause"
    """SIGSTOP to the broker, then SIGCONT"""
    BROKER_SLOW = "broker-slow"
    """the broker runs a tenth of the time"""

    @property
    def of_broker(self) -> bool:
        """Whether it is done to the broker, which must be ours then."""
        return self.value.startswith("broker-")


@dataclass(frozen=True)
class Fault:
    """One fault of a schedule."""

    kind: Kind
    calm_s: float
    """how long nothing happens before"""
    target: str
    """the worker that it is done to; of no meaning for some"""
    seconds: float
    """how long it lasts, or until its second blow"""


_LASTS_S: Final = {
    Kind.KILL: (0.0, 0.5),
    Kind.STOP: (0.0, 0.5),
    Kind.FREEZE: (1.0, 4.0),
    Kind.ABSENCE: (1.0, 4.0),
    Kind.JOIN: (4.0, 8.0),
    Kind.REBALANCE: (1.5, 4.0),
    Kind.RECOVERY: (1.5, 4.0),
    Kind.WIPE: (0.0, 1.0),
    Kind.CLOCK: (1.0, 3.0),
    Kind.SWAP: (0.0, 0.0),
    Kind.BROKER_KILL: (0.0, 3.0),
    Kind.BROKER_STOP: (0.0, 3.0),
    Kind.BROKER_PAUSE: (1.0, 4.0),
    Kind.BROKER_SLOW: (3.0, 6.0),
}
"""shortest and longest, for some beyond the session"""
_BEYOND_SESSION: Final = (Kind.FREEZE, Kind.ABSENCE)


def schedule(
    seed: int,
    kinds: Collection[Kind],
    targets: Sequence[str],
    calm_s: tuple[float, float] = (0.5, 4.0),
    session_s: float = SESSION_S,
) -> Iterator[Fault]:
    """Faults without end. Each kind comes once before any comes again, in an order of its own each time.

    Args:
        seed: of the random numbers.
        kinds: to choose from, at least one.
        targets: workers to choose from, at least one.
        calm_s: shortest and longest pause before a fault.
        session_s: the workers' session timeout.
    """
    draw = random.Random(seed)  # noqa: S311, not for secrets
    wanted = sorted(set(kinds))
    while True:
        for kind in draw.sample(wanted, len(wanted)):
            seconds = draw.uniform(*_LASTS_S[kind]) + (session_s if kind in _BEYOND_SESSION else 0)
            yield Fault(kind, draw.uniform(*calm_s), draw.choice(targets), seconds)
