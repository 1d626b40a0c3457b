"""One run: faults one after the other, how long each took to be over, and the check at the end."""

import statistics
import time
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, NamedTuple

from ops.chaos.check import Findings, check
from ops.chaos.cluster import Cluster
from ops.chaos.faults import inject
from ops.chaos.schedule import Fault


class Injected(NamedTuple):
    """A fault that was done, undone and recovered from."""

    fault: Fault
    at_s: float
    """since the run began"""
    lasted_s: float
    """from doing it to having undone it"""
    recovered_s: float
    """from then until the lag was zero"""
    endings: int
    """workers that ended of themselves since the fault before was over, and were started again"""


class Outcome(NamedTuple):
    """What a run gave."""

    injected: list[Injected]
    sent: int
    """records of the log"""
    fed_s: float
    """how long they were sent for"""
    seconds: float
    findings: Findings

    def figures(self) -> dict[str, Any]:
        """For `--json`."""
        found = self.findings
        return {
            "faults": len(self.injected),
            "events": found.events,
            "lost": found.lost,
            "applied_twice": found.applied_twice,
            "uncovered": found.uncovered,
            "wrong_histories": found.wrong_histories,
            "wrong_states": found.wrong_states,
            "uncommitted": found.uncommitted,
            "store_differences": found.store_differences,
            "stores_behind": found.stores_behind,
            "wrong_dead_letters": found.wrong_dead_letters,
            "clean": found.clean,
            "examples": found.examples,
            "records": self.sent,
            "seconds": round(self.seconds, 1),
            "by_kind": by_kind(self.injected),
        }


def by_kind(injected: list[Injected]) -> dict[str, dict[str, float]]:
    """For each kind of fault how often it came, and the seconds to recover from it."""
    found: dict[str, dict[str, float]] = {}
    for kind in sorted({done.fault.kind for done in injected}):
        of_kind = [done for done in injected if done.fault.kind == kind]
        recovered_s = [done.recovered_s for done in of_kind]
        found[kind.value] = {
            "times": len(of_kind),
            "recovered_s_median": round(statistics.median(recovered_s), 1),
            "recovered_s_max": round(max(recovered_s), 1),
            "workers_ended": sum(done.endings for done in of_kind),
        }
    return found


def run(
    cluster: Cluster,
    faults: Iterable[Fault],
    seconds: float = inf,
    every_s: float | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Inject faults, let the cluster settle, and check.

    Args:
        cluster: runs.
        faults: are taken one after the other until they end,
        seconds: or until that time is over; a fault that has begun is finished.
        every_s: time between the beginnings of faults; if omitted, a fault follows the recovery from the one before
            after its own calm.
        say: receives a line for each fault.

    Raises:
        ProgramFailed: the cluster did not recover, or a worker refused to go on.
    """
    began = time.monotonic()
    injected: list[Injected] = []
    for fault in faults:
        elapsed = time.monotonic() - began
        calm_s = fault.calm_s if every_s is None else every_s * (len(injected) + 1) - elapsed
        cluster.wait(min(calm_s, seconds - elapsed))
        if elapsed + calm_s >= seconds:
            break
        injected.append(_injected(cluster, fault, began, sum(done.endings for done in injected)))
        say(_line(injected[-1]))
    fed_s = time.monotonic() - began
    sent = cluster.settle()
    say(f"{'':>9}    {sent:,} records, everything committed, the workers stopped; now the check")
    return Outcome(injected, sent, fed_s, time.monotonic() - began, check(cluster, sent))


def _injected(cluster: Cluster, fault: Fault, began: float, ended_before: int) -> Injected:
    at = time.monotonic()
    inject(cluster, fault)
    lasted_s = time.monotonic() - at
    recovered_s = cluster.await_no_lag()
    return Injected(fault, at - began, lasted_s, recovered_s, cluster.endings - ended_before)


def _line(done: Injected) -> str:
    ended = f", {done.endings} ended and came back" if done.endings else ""
    target = "" if done.fault.kind.of_broker else done.fault.target
    return (
        f"{done.at_s:>8.1f} s  {done.fault.kind:<12}  {target:<8}  "
        f"lasted {done.lasted_s:>4.1f} s, no lag after {done.recovered_s:>4.1f} s{ended}"
    )
