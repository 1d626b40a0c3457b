"""What a bench found: a table for a person, figures for a program, and ratios that outlive the machine."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

from ops.distribution import KAFKA_VERSION

_PACKAGES: Final = ("faust-streaming", "confluent-kafka", "onnxruntime", "numpy")
_CPUS: Final = Path("/proc/cpuinfo")


class Findings(NamedTuple):
    """The result of one bench."""

    table: str
    figures: Mapping[str, object]
    """as the JSON object has them"""
    ratios: Mapping[str, float]
    """each of ours to a reference in the same run, larger is better"""
    problem: str = ""
    """what makes the figures worthless"""


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many cells each as aligned text: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def spread(values: Sequence[float]) -> str:
    """How many runs there were, and the smallest and the largest of them."""
    return f"{len(values)} runs, {min(values):,.0f} to {max(values):,.0f}"


def machine() -> str:
    """What the figures were measured on, in a line."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, Kafka {KAFKA_VERSION}, {packages}"
    )


def _processor() -> str:
    if _CPUS.exists():
        for line in _CPUS.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
