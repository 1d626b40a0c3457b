"""`python -m ops bench`: how fast serving is, beside a reference in the same run."""

import os
import platform
import statistics
from importlib.metadata import version
from typing import Literal, assert_never

from pydantic import Field
from pydantic_settings import CliPositionalArg

from ops.bench import catalogue, recovery, throughput
from schemas.report import Report
from schemas.settings import DONE, FAILED


class Bench(Report):
    """time a worker that catches up or recovers, or the ranking of large catalogues, each beside a reference"""

    what: CliPositionalArg[Literal["throughput", "recovery", "catalogue"]] = Field(
        description="throughput: beside a bare consume and produce; recovery: beside a bare read and a bare write; "
        "catalogue: beside MatMul and TopK of ONNX Runtime"
    )
    events: int = Field(200_000, ge=10_000, description="throughput: events to catch up on, of 20,000 users (Zipf)")
    catalogue: int = Field(3_416, ge=100, description="throughput: items that the model knows")
    users: int = Field(
        1_000_000, ge=1_000, description="recovery: users with 50 events each; the disk needs 6.5 KB for each of them"
    )
    items: str = Field(
        "3416,57289,1000000",
        pattern=r"^[1-9]\d+(,[1-9]\d+)*$",
        description="catalogue: items of each, separated by commas",
    )
    runs: int = Field(
        3, ge=1, description="runs of each side, in turn; the median counts, of catalogue the least CPU time"
    )

    def run(self) -> int:
        """Time both sides in turn and print what counts."""
        match self.what:
            case "throughput":
                return self._throughput()
            case "recovery":
                return self._recovery()
            case "catalogue":
                return self._catalogue()
            case _:
                assert_never(self.what)

    def _throughput(self) -> int:
        ours, bare, clean = throughput.measure(self.events, self.catalogue, self.runs)
        events_per_s, bare_per_s = statistics.median(ours), statistics.median(bare)
        ratio = events_per_s / bare_per_s
        self.report(
            f"worker        {events_per_s:>9,.0f} events/s, a list for each ({_spread(ours)})\n"
            f"pass-through  {bare_per_s:>9,.0f} events/s ({_spread(bare)})\n"
            f"ratio         {ratio:>9.2f}\n"
            f"audit         {'nothing lost' if clean else 'SOMETHING IS WRONG':>9}\n"
            f"{_machine()}",
            events_per_s=round(events_per_s),
            pass_through_per_s=round(bare_per_s),
            ratio_to_pass_through=round(ratio, 3),
            clean=clean,
            machine=_machine(),
        )
        return DONE if clean else FAILED

    def _recovery(self) -> int:
        found = recovery.measure(self.users, self.partitions, self.runs)
        sides = {"worker": found.worker, "bare read": found.read, "bare write": found.write}
        medians = {name: statistics.median(one.states_per_s for one in runs) for name, runs in sides.items()}
        state_mb = found.bytes / found.states / 1e6
        lines = [
            f"{name:<11}{medians[name]:>9,.0f} states/s  {medians[name] * state_mb:>5,.0f} MB/s  "
            f"{statistics.median(one.cpu_s for one in runs):>6.1f} s of CPU, at most "
            f"{max(one.peak_mib for one in runs):,} MiB ({_spread([one.states_per_s for one in runs])})"
            for name, runs in sides.items()
        ]
        self.report(
            "\n".join((f"{found.states:,} states, {found.bytes / 1e6:,.0f} MB", *lines, _machine())),
            states=found.states,
            bytes=found.bytes,
            **{name.replace(" ", "_"): [one._asdict() for one in runs] for name, runs in sides.items()},
            ratio_to_read=round(medians["worker"] / medians["bare read"], 3),
            machine=_machine(),
        )
        return DONE

    def _catalogue(self) -> int:
        found = [catalogue.measure(int(items), self.runs) for items in self.items.split(",")]
        lines = [
            f"{one.items:>9,} items  {one.list_us:>8.1f} us of CPU a list, of one alone {one.single_us:,.0f} us  "
            f"MatMul + TopK {one.reference_us:>8.1f} us  ratio {one.ratio:.2f}  {one.bytes / 2**20:,.0f} MiB  "
            f"{'exact' if one.wrong == 0 else f'{one.wrong} LISTS ARE WRONG'} ({one.compared} compared)"
            for one in found
        ]
        self.report(
            "\n".join((*lines, _machine())),
            catalogues=[{**one._asdict(), "ratio": round(one.ratio, 3)} for one in found],
            machine=_machine(),
        )
        return FAILED if any(one.wrong for one in found) else DONE


def _spread(values: list[float]) -> str:
    return f"{len(values)} runs, {min(values):,.0f} to {max(values):,.0f}"


def _machine() -> str:
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("faust-streaming", "confluent-kafka", "onnxruntime", "numpy")
    )
    return f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}, {packages}"
