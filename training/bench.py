"""`python -m training bench`: what a step of training costs, beside the authors' LRURec and SASRec in the same run."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field, PositiveInt

from schemas.report import Report
from schemas.settings import DONE, Refused

if TYPE_CHECKING:
    from training.fitting.device import Device
    from training.rivals.cost import Cost, Rival
    from training.rivals.workload import Workload

_GPU_LENGTH, _GPU_WINDOWS = 200, 1024
_QUIET: Final = {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""PyTorch's profiler tells that it starts, and of memory that is older than itself, in lines of its own"""
_HEAD: Final = (
    "                            milliseconds, median       MiB at the peak       ours is faster than",
    "length     events filled  authors   SASRec    ours  authors   SASRec    ours     authors  SASRec",
)


class Bench(Report):
    """Time a step of training, beside the authors' LRURec and SASRec."""

    from_inter: Path | None = Field(
        None, description="a RecBole file (.inter, .inter.gz); else a random log with the sizes of MovieLens 1M"
    )
    lengths: list[PositiveInt] = Field([50, 200, 1000, 2000], min_length=1, description="most events of a window")
    windows: Literal["newest", "full"] = Field(
        "newest", description="each user's newest events, or full windows only, whoever the events are of"
    )
    tokens: int = Field(25_600, ge=1, description="events of a step, without padding, at every length")
    runs: int = Field(5, ge=2, description="steps of each, in turn; the median counts")
    budget_s: float = Field(30.0, gt=0, description="who has taken this long at a length makes no more than 2 steps")
    memory: bool = Field(True, description="count peak memory too, of one more step of each")
    threads: int = Field(os.cpu_count() or 1, ge=1, description="threads of a training on a CPU")

    def run(self) -> int:
        """Measure at every length and print a table.

        Raises:
            Refused: the file cannot be read, or no user has two events.
        """
        for name, level in _QUIET.items():
            os.environ.setdefault(name, level)
        # imported only now, for that, and so that --help and a wrong setting answer at once
        import torch

        from training.fitting.allocator import keep_freed_memory
        from training.fitting.device import find_device
        from training.rivals.cost import compare

        torch.set_num_threads(self.threads)
        keep_freed_memory()
        device = find_device()
        machine = _machine(device, self.threads)
        workloads = self._workloads(on_gpu=device.name == "cuda")
        self._tell(machine, f"{self.windows} windows", "", *_HEAD)
        rows = {}
        for name, workload in workloads.items():
            rows[name] = compare(workload, device, runs=self.runs, budget_s=self.budget_s, memory=self.memory)
            self._tell(_line(name, workload, rows[name]))
        self.report(
            "filled: the part of the authors' padded batch that is events; *: scaled from what memory holds of a step",
            machine=machine,
            windows=self.windows,
            ratio_to_paper={name: _ratio("authors", costs) for name, costs in rows.items()},
            ratio_to_sasrec={name: _ratio("sasrec", costs) for name, costs in rows.items()},
            costs={
                name: {"events": workloads[name].tokens, "filled": workloads[name].filled}
                | {rival: asdict(cost) for rival, cost in costs.items()}
                for name, costs in rows.items()
            },
        )
        return DONE

    def _tell(self, *lines: str) -> None:
        """What is known already, to a person."""
        if not self.as_json:
            print(*lines, sep="\n", flush=True)

    def _workloads(self, *, on_gpu: bool) -> dict[str, "Workload"]:
        """By the names of their rows."""
        from training.log.interactions import read_file
        from training.rivals.workload import full_windows, newest_windows, of_tokens, synthetic_log

        log = read_file(self.from_inter).histories if self.from_inter else synthetic_log()
        if not (log.users.lengths > 1).any():
            raise Refused(f"{self.from_inter}: no user has two events")
        windows = newest_windows if self.windows == "newest" else full_windows
        found = {f"{length}": of_tokens(windows(log, length), self.tokens) for length in self.lengths}
        if on_gpu:
            found[f"{_GPU_LENGTH} x {_GPU_WINDOWS}"] = windows(log, _GPU_LENGTH).first(_GPU_WINDOWS)
        return found


def _ratio(rival: "Rival", costs: Mapping["Rival", "Cost"]) -> float:
    """How many times as long as ours a step of this rival takes."""
    return round(costs[rival].milliseconds / costs["ours"].milliseconds, 2)


def _line(name: str, workload: "Workload", costs: Mapping["Rival", "Cost"]) -> str:
    """A row of the table."""
    authors, sasrec, ours = costs["authors"], costs["sasrec"], costs["ours"]
    mark = "*" if authors.share < 1 else " "
    return (
        f"{name:<10} {workload.tokens:>6,}  {workload.filled:>5.0%}"
        f" {authors.milliseconds:>8,.0f}{mark} {sasrec.milliseconds:>7,.0f} {ours.milliseconds:>7,.0f}"
        f" {_mib(authors):>8}{mark} {_mib(sasrec):>7} {_mib(ours):>7}"
        f" {_ratio('authors', costs):>11.1f} {_ratio('sasrec', costs):>7.1f}"
    )


def _mib(cost: "Cost") -> str:
    return "-" if cost.mib is None else f"{cost.mib:,.0f}"


def _machine(device: "Device", threads: int) -> str:
    if device.name == "cuda":
        import torch

        where = torch.cuda.get_device_name()
    else:
        where = f"{threads} of {os.cpu_count()} cores {platform.machine()}"
    precision = str(device.dtype).removeprefix("torch.")
    return f"{where}, {precision} (the authors' float32), Python {platform.python_version()}, torch {version('torch')}"
