"""How each fault is done and undone."""

import signal
import time
from collections.abc import Callable, Mapping
from typing import Final

from ops.chaos.cluster import Cluster, Worker
from ops.chaos.schedule import Fault, Kind
from ops.kafka import LocalKafka

_JOINING: Final = "joining"
_DAY_MS: Final = 24 * 3600 * 1000
_STOPPED_S: Final = 0.09
_RUNNING_S: Final = 0.01


def inject(cluster: Cluster, fault: Fault) -> None:
    """Do a fault, for as long as it lasts, and undo it; a worker that it ended has been started again."""
    _FAULTS[fault.kind](cluster, fault)


def _target(cluster: Cluster, fault: Fault) -> Worker:
    worker = cluster.worker(fault.target)
    # the fault before may have ended it, and one that does nothing yet is hard to harm
    cluster.wait_until(lambda: worker.working, f"worker {worker.name} works")
    return worker


def _kill(cluster: Cluster, fault: Fault) -> None:
    worker = _target(cluster, fault)
    worker.kill()
    cluster.wait(fault.seconds)
    worker.start()


def _stop(cluster: Cluster, fault: Fault) -> None:
    worker = _target(cluster, fault)
    worker.stop()
    cluster.wait(fault.seconds)
    worker.start()


def _freeze(cluster: Cluster, fault: Fault) -> None:
    worker = _target(cluster, fault)
    worker.process.send(signal.SIGSTOP)
    cluster.wait(fault.seconds)
    worker.process.send(signal.SIGCONT)


def _join(cluster: Cluster, fault: Fault) -> None:
    joining = cluster.worker(_JOINING)
    joining.start()
    cluster.wait(fault.seconds)
    cluster.wait_until(lambda: joining.started, "one worker more has started")
    joining.stop()


def _rebalance(cluster: Cluster, fault: Fault) -> None:
    worker, joining = _target(cluster, fault), cluster.worker(_JOINING)
    joining.start()
    cluster.wait(fault.seconds)
    worker.kill()
    worker.start()
    cluster.wait(fault.seconds)
    joining.kill()


def _recovery(cluster: Cluster, fault: Fault) -> None:
    worker = _target(cluster, fault)
    worker.kill()
    worker.wipe()
    worker.start()
    cluster.wait(fault.seconds)
    worker.kill()
    worker.start()


def _wipe(cluster: Cluster, fault: Fault) -> None:
    worker = _target(cluster, fault)
    worker.kill()
    worker.wipe()
    cluster.wait(fault.seconds)
    worker.start()


def _clock(cluster: Cluster, fault: Fault) -> None:
    cluster.feeder.jump_ms = -30 * _DAY_MS
    cluster.wait(fault.seconds)
    cluster.feeder.jump_ms = 30 * _DAY_MS
    cluster.wait(fault.seconds)
    cluster.feeder.jump_ms = 0


def _swap(cluster: Cluster, _fault: Fault) -> None:
    cluster.swap()


def _broker(cluster: Cluster) -> LocalKafka:
    assert cluster.kafka is not None, "a schedule has faults of the broker only when it is ours"
    return cluster.kafka


def _broker_kill(cluster: Cluster, fault: Fault) -> None:
    _broker(cluster).kill()
    cluster.wait(fault.seconds)
    _broker(cluster).start()


def _broker_stop(cluster: Cluster, fault: Fault) -> None:
    _broker(cluster).stop()
    cluster.wait(fault.seconds)
    _broker(cluster).start()


def _broker_pause(cluster: Cluster, fault: Fault) -> None:
    _broker(cluster).send(signal.SIGSTOP)
    try:
        cluster.wait(fault.seconds)
    finally:
        _broker(cluster).send(signal.SIGCONT)


def _broker_slow(cluster: Cluster, fault: Fault) -> None:
    until = time.monotonic() + fault.seconds
    try:
        while time.monotonic() < until:
            _broker(cluster).send(signal.SIGSTOP)
            cluster.wait(_STOPPED_S)
            _broker(cluster).send(signal.SIGCONT)
            cluster.wait(_RUNNING_S)
    finally:
        _broker(cluster).send(signal.SIGCONT)


_FAULTS: Final[Mapping[Kind, Callable[[Cluster, Fault], None]]] = {
    Kind.KILL: _kill,
    Kind.ABSENCE: _kill,
    Kind.STOP: _stop,
    Kind.FREEZE: _freeze,
    Kind.JOIN: _join,
    Kind.REBALANCE: _rebalance,
    Kind.RECOVERY: _recovery,
    Kind.WIPE: _wipe,
    Kind.CLOCK: _clock,
    Kind.SWAP: _swap,
    Kind.BROKER_KILL: _broker_kill,
    Kind.BROKER_STOP: _broker_stop,
    Kind.BROKER_PAUSE: _broker_pause,
    Kind.BROKER_SLOW: _broker_slow,
}
