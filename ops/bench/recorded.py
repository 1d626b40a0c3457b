"""The ratios that were recorded in the repository, and which of the present ones fall far below them.

Only ratios: each is of two sides of one run on one machine, so it may be compared with another machine's.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("recorded.toml")
LEAST: Final = 0.5
"""of a recorded ratio"""
_HEAD: Final = """\
# Ratios of `python -m ops bench --quick`, each of ours to a reference in the same run; larger is better.
# `python -m ops bench --quick --record` writes them anew. One that is below half of it
# in each of three runs fails.
"""


def read(path: Path = FILE) -> dict[str, float]:
    """The recorded ratios by name."""
    return {name: float(ratio) for name, ratio in tomllib.loads(path.read_text()).items()}


def write(ratios: Mapping[str, float], path: Path = FILE) -> None:
    """Record `ratios` in place of all others, to three digits."""
    path.write_text(_HEAD + "".join(f"{name} = {float(f'{ratio:.3g}')}\n" for name, ratio in ratios.items()))


def fallen(ratios: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """A line for each recorded ratio that is missing now or below half of what it was."""
    lines = []
    for name, was in recorded.items():
        now = ratios.get(name)
        if now is None:
            lines.append(f"{name} was recorded as {was:.3g} and is not measured any more: record the ratios anew")
        elif now < LEAST * was:
            lines.append(f"{name} fell to {now:.3g}, below half of the recorded {was:.3g}")
    return lines
