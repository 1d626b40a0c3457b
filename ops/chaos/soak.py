"""`python -m ops soak`: hours of traffic with a fault a minute; memory and open files must stay what they are."""

import time
from pathlib import Path
from typing import Final

from pydantic import Field

from ops.chaos.cluster import Cluster, Worker
from ops.chaos.command import summary, worker_names
from ops.chaos.meter import Sample, Trend, sample, trend
from ops.chaos.place import place
from ops.chaos.run import run
from ops.chaos.schedule import Kind, schedule
from schemas.report import Report
from schemas.settings import DONE, FAILED

_WITNESS: Final = "witness"
_USERS: Final = 20_000
_SAMPLE_S: Final = 2.0
_SESSION_S: Final = 15.0
"""long enough for a busy machine: the witness is not to lose its partitions by chance"""
_PATIENCE_S: Final = 1_200.0
_KINDS: Final = [kind for kind in Kind if kind is not Kind.SWAP]
"""no new model, which takes memory of its own"""


class Soak(Report):
    """hours of traffic with a fault a minute, and watch memory and open files"""

    minutes: float = Field(60.0, gt=0, description="how long")
    rate: float = Field(3_000.0, gt=0, description="records per second")
    every_s: float = Field(60.0, gt=0, description="seconds between faults")
    seed: int = Field(1, ge=0, description="of the log and of the faults: the same seed gives the same order")
    local: bool = Field(
        True, description="with a broker of its own, to which faults are done as well; else on the cluster of broker"
    )
    workers: int = Field(1, ge=1, le=16, description="workers beside the one that no fault ends and that is watched")
    directory: Path | None = Field(None, description="keep data and logs here; they go at a good end, if omitted")

    def run(self) -> int:
        """Run it and say by the status whether all was well."""
        kinds = [kind for kind in _KINDS if self.local or not kind.of_broker]
        victims = worker_names(self.workers)
        with place(self, local=self.local, directory=self.directory) as (settings, directory, kafka):
            print(f"{settings.app} on {settings.broker}, files in {directory}", flush=True)
            names = [_WITNESS, *victims]
            with Cluster(
                settings,
                directory,
                kafka,
                names,
                self.rate,
                self.seed,
                _USERS,
                session_s=_SESSION_S,
                patience_s=_PATIENCE_S,
            ) as cluster:
                meter = Meter(cluster.worker(_WITNESS))
                cluster.watch = meter.tick
                faults = schedule(self.seed, kinds, victims, session_s=_SESSION_S)
                outcome = run(cluster, faults, 60 * self.minutes, self.every_s)
        watched = meter.trend()
        lines = [summary(outcome), f"  {outcome.sent / outcome.fed_s:,.0f} records/s for {outcome.fed_s:,.0f} s"]
        self.report(
            "\n".join([*lines, _line(watched)] if watched else lines),
            **outcome.figures(),
            records_per_s=round(outcome.sent / outcome.fed_s, 1),
            witness=watched and watched.figures(),
        )
        return FAILED if not outcome.findings.clean or (watched and watched.flat is False) else DONE


class Meter:
    """Samples of the processes of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lives: dict[int, list[Sample]] = {}
        self._sampled_at = 0.0

    def tick(self) -> None:
        """Take a sample, if it is time."""
        if time.monotonic() - self._sampled_at > _SAMPLE_S and self._worker.running:
            self._sampled_at = time.monotonic()
            pid = self._worker.process.pid
            if (taken := sample(pid)) is not None:
                self._lives.setdefault(pid, []).append(taken)

    def trend(self) -> Trend | None:
        """Of the longest life; None for a run of a few seconds."""
        return trend(max(self._lives.values(), key=len, default=[]))


def _line(of: Trend) -> str:
    figures = of.figures()
    verdict = {True: "flat", False: "IT GROWS", None: "too short to say more"}[of.flat]
    return (
        f"  memory {figures['memory_first_mib']} MiB, then {figures['memory_last_mib']} MiB; "
        f"open files {figures['handles_first']:g}, then {figures['handles_last']:g}: {verdict}"
    )
