"""`python -m ops bench`: how fast serving is, beside a reference in the same run."""

import time
from pathlib import Path
from typing import Literal, assert_never

from pydantic import Field
from pydantic_settings import CliPositionalArg

from ops.bench import catalogue, history, latency, loading, quick, recorded, recovery, state, swap, throughput
from ops.bench.findings import Findings, machine, table
from schemas.report import Report
from schemas.settings import DONE, FAILED, Refused

_NUMBERS = r"^[1-9]\d*(,[1-9]\d*)*$"
_USERS = {"recovery": 1_000_000, "state": 100_000, "swap": 100_000}


class Bench(Report):
    """time serving, recovery and what they are made of, each beside a reference in the same run"""

    what: CliPositionalArg[
        Literal["throughput", "latency", "history", "catalogue", "loading", "state", "swap", "recovery"] | None
    ] = Field(
        None,
        description="throughput: beside a bare consume and produce, and stock Faust; latency: beside the former; "
        "history: beside SASRec; catalogue: beside MatMul and TopK of ONNX Runtime; loading: a model beside one that "
        "serves; state: beside other codecs; "
        "swap: during beside before; recovery: beside a bare read and a bare write",
    )
    quick: bool = Field(
        False,
        description="all of them in a small form, or the one that is named: fails where a ratio has halved in each of "
        "three runs",
    )
    record: bool = Field(False, description="with --quick: record the ratios that later ones are compared with")
    runs: int = Field(
        5,
        ge=1,
        description="runs of each side, in turn; the median counts, of rankings and bare models the least CPU time",
    )
    events: int = Field(200_000, ge=10_000, description="throughput: to catch up on, of 20,000 users (Zipf)")
    catalogue: int = Field(3_416, ge=100, description="throughput: items that the model knows")
    stock_events: int = Field(10_000, ge=100, description="throughput: events that the stock way gets, which is slow")
    workers: str = Field("2,4", pattern=rf"^$|{_NUMBERS}", description="throughput: workers that share, by row")
    rates: str = Field("100,1000,5000", pattern=_NUMBERS, description="latency: events per second, one after the other")
    rate: int = Field(3_000, ge=10, description="swap: events per second")
    seconds: float = Field(10.0, gt=0, description="latency: of traffic in each run; swap: before, during and after")
    warm_seconds: float = Field(
        30.0,
        ge=1,
        description="latency: of traffic for each side before all runs, in which the broker's compiler is busy; "
        "swap: for the worker",
    )
    behind: str = Field("10,200,1000,10000", pattern=_NUMBERS, description="history: events that came before")
    crowd: int = Field(500, ge=50, multiple_of=50, description="history: users in a large round")
    plot: Path | None = Field(None, description="history: also draw a chart, as SVG, into this file")
    items: str = Field("3416,57289,1000000", pattern=_NUMBERS, description="catalogue and loading: items of each")
    users: int | None = Field(
        None,
        ge=1_000,
        description="recovery and swap: users with 50 events each, 6.5 KB of disk for each, by default 1,000,000 and "
        "100,000; state: users of ten events on average, 100,000 by default",
    )

    def run(self) -> int:
        """Time the sides in turn and print what counts."""
        if self.quick:
            return self._quick()
        if self.record:
            raise Refused("--record records what --quick measures: give both")
        found = self._measure()
        self.report(
            "\n".join(part for part in (found.table, found.problem, machine()) if part),
            **found.figures,
            machine=machine(),
        )
        return FAILED if found.problem else DONE

    def _quick(self) -> int:
        if self.what and self.what not in quick.BENCHES:
            raise Refused(f"{self.what} has no small form: leave --quick out")
        was = recorded.read()
        ratios: dict[str, float] = {}
        problems: list[str] = []
        rows = [["", "ratio", "recorded", "seconds"]]
        for name in [self.what] if self.what else quick.BENCHES:
            began_s = time.monotonic()
            found = quick.measure(name, {} if self.record else was)
            seconds = time.monotonic() - began_s
            ratios |= found.ratios
            problems += [f"{name}: {found.problem}"] if found.problem else []
            for ratio in found.ratios:
                told = f"{was[ratio]:.3g}" if ratio in was else "-"
                rows.append([ratio, f"{found.ratios[ratio]:.3g}", told, f"{seconds:.0f}"])
        if self.record:
            recorded.write(was | ratios if self.what else ratios)
        else:
            problems += recorded.fallen(ratios, {one: was[one] for one in was if not self.what or one in ratios})
        self.report(
            "\n".join([table(rows), *problems, machine()]),
            ratios={name: float(f"{ratio:.4g}") for name, ratio in ratios.items()},
            problems=problems,
            machine=machine(),
        )
        return FAILED if problems else DONE

    def _measure(self) -> Findings:
        users = self.users or _USERS.get(self.what or "", 0)
        match self.what:
            case None:
                raise Refused("name a bench, e.g. `python -m ops bench latency`, or run all in a small form: --quick")
            case "throughput":
                return throughput.bench(
                    self.events, self.catalogue, self.runs, self.stock_events, _numbers(self.workers)
                )
            case "latency":
                return latency.bench(_numbers(self.rates), self.seconds, self.runs, self.warm_seconds)
            case "history":
                return history.bench(_numbers(self.behind), self.crowd, self.runs, self.plot)
            case "catalogue":
                return catalogue.bench(_numbers(self.items), self.runs)
            case "loading":
                return loading.bench(_numbers(self.items))
            case "state":
                return state.bench(users, 10 * users)
            case "swap":
                return swap.bench(users, self.rate, self.seconds, self.runs, self.warm_seconds)
            case "recovery":
                return recovery.bench(users, self.partitions, self.runs)
            case _:
                assert_never(self.what)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
