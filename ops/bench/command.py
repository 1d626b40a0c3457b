"""`python -m ops bench`: how fast serving is, beside a reference in the same run."""

from typing import Literal, assert_never

from pydantic import Field
from pydantic_settings import CliPositionalArg

from ops.bench import catalogue, latency, recovery, throughput
from ops.bench.findings import Findings, machine
from schemas.report import Report
from schemas.settings import DONE, FAILED

_NUMBERS = r"^[1-9]\d*(,[1-9]\d*)*$"


class Bench(Report):
    """time a worker that catches up, serves or recovers, or the ranking of large catalogues, each beside a reference"""

    what: CliPositionalArg[Literal["throughput", "latency", "recovery", "catalogue"]] = Field(
        description="throughput and latency: beside a bare consume and produce; recovery: beside a bare read and a "
        "bare write; catalogue: beside MatMul and TopK of ONNX Runtime"
    )
    events: int = Field(200_000, ge=10_000, description="throughput: events to catch up on, of 20,000 users (Zipf)")
    catalogue: int = Field(3_416, ge=100, description="throughput: items that the model knows")
    rates: str = Field("100,1000,5000", pattern=_NUMBERS, description="latency: events per second, one after the other")
    seconds: float = Field(10.0, gt=0, description="latency: of traffic in each run")
    users: int = Field(
        1_000_000, ge=1_000, description="recovery: users with 50 events each; the disk needs 6.5 KB for each of them"
    )
    items: str = Field("3416,57289,1000000", pattern=_NUMBERS, description="catalogue: items of each")
    runs: int = Field(
        5, ge=1, description="runs of each side, in turn; the median counts, of catalogue the least CPU time"
    )

    def run(self) -> int:
        """Time both sides in turn and print what counts."""
        found = self._measure()
        self.report(
            "\n".join(part for part in (found.table, found.problem, machine()) if part),
            **found.figures,
            machine=machine(),
        )
        return FAILED if found.problem else DONE

    def _measure(self) -> Findings:
        match self.what:
            case "throughput":
                return throughput.bench(self.events, self.catalogue, self.runs)
            case "latency":
                return latency.bench(_numbers(self.rates), self.seconds, self.runs)
            case "recovery":
                return recovery.bench(self.users, self.partitions, self.runs)
            case "catalogue":
                return catalogue.bench(_numbers(self.items), self.runs)
            case _:
                assert_never(self.what)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
