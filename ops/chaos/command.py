"""`python -m ops chaos`: break workers and broker on purpose, and see that nothing is lost."""

from itertools import islice
from math import inf
from pathlib import Path

from pydantic import Field, field_validator

from ops.chaos.check import Findings
from ops.chaos.cluster import Cluster
from ops.chaos.place import place
from ops.chaos.run import Outcome, run
from ops.chaos.schedule import Kind, schedule
from schemas.report import Report
from schemas.settings import DONE, FAILED, Refused


class Chaos(Report):
    """break workers and broker on purpose, and check that nothing is lost"""

    minutes: float = Field(5.0, gt=0, description="how long faults are injected")
    count: int | None = Field(None, ge=1, description="so many faults instead, however long they take")
    seed: int = Field(1, ge=0, description="of the log and of the faults: the same seed gives the same order")
    local: bool = Field(
        False, description="with a broker of its own, to which faults are done as well; else on the cluster of broker"
    )
    faults: str = Field("", description=f"only these, separated by commas: {', '.join(Kind)}; empty for all that apply")
    workers: int = Field(2, ge=1, le=16, description="worker processes")
    rate: float = Field(500.0, gt=0, description="records per second")
    directory: Path | None = Field(None, description="keep data and logs here; they go at a good end, if omitted")

    @field_validator("faults")
    @classmethod
    def _faults_are_known(cls, text: str) -> str:
        if unknown := sorted(set(_names(text)) - set(Kind)):
            raise ValueError(f"there is no fault {unknown[0]!r}, there are {', '.join(Kind)}")
        return text

    def run(self) -> int:
        """Run it and say by the status whether all was well."""
        kinds = chosen(self.faults, local=self.local)
        names = worker_names(self.workers)
        with place(self, local=self.local, directory=self.directory) as (settings, directory, kafka):
            print(f"{settings.app} on {settings.broker}, files in {directory}", flush=True)
            with Cluster(settings, directory, kafka, names, self.rate, self.seed) as cluster:
                faults = islice(schedule(self.seed, kinds, names), self.count)
                outcome = run(cluster, faults, 60 * self.minutes if self.count is None else inf)
        self.report(summary(outcome), **outcome.figures())
        return DONE if outcome.findings.clean else FAILED


def chosen(text: str, *, local: bool) -> list[Kind]:
    """The kinds of faults that an operator named; all that apply for none.

    Raises:
        Refused: a fault of the broker without a broker of our own.
    """
    named = [Kind(name) for name in _names(text)]
    if not local and (foreign := [kind for kind in named if kind.of_broker]):
        raise Refused(f"faults: {foreign[0]} is done to a broker of our own, add --local")
    return named or [kind for kind in Kind if local or not kind.of_broker]


def worker_names(count: int) -> list[str]:
    """The ids of the workers that are there all the time."""
    return [f"worker-{number}" for number in range(count)]


def summary(outcome: Outcome) -> str:
    """What a run gave, for a person."""
    figures = outcome.figures()
    lines = [
        f"  {kind:<12}  {of['times']:>3} times, no lag after {of['recovered_s_median']:>5.1f} s (median), "
        f"{of['recovered_s_max']:>5.1f} s at most"
        for kind, of in figures["by_kind"].items()
    ]
    return "\n".join(["", *lines, "", *verdict(outcome.findings)])


def verdict(found: Findings) -> list[str]:
    """What a check found, for a person."""
    return [
        f"  events {found.events:,}",
        f"  lost {found.lost}, applied twice {found.applied_twice}, uncovered {found.uncovered}",
        f"  wrong histories {found.wrong_histories}, wrong states {found.wrong_states}, "
        f"uncommitted offsets {found.uncommitted}",
        f"  records in which stores differ {found.store_differences}, partitions without a whole store "
        f"{found.stores_behind}, wrong dead letters {found.wrong_dead_letters}",
        *(f"  e.g. {example}" for example in found.examples),
        "  Nothing is wrong" if found.clean else "  SOMETHING IS WRONG",
    ]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
