"""Packages that only some processes need: one that is missing is a line that says how to get it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from schemas.settings import REFUSED

_OURS: Final = {"schemas", "stream_app", "training", "ops"}


@contextmanager
def needed(program: str, extra: str) -> Iterator[None]:
    """Within it, a package that is not installed ends the process with status `REFUSED` and one line on stderr.

    Args:
        program: begins the line.
        extra: what to install lrurec-stream with.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        line = f"the package {package} is not installed: pip install 'lrurec-stream[{extra}]'"
        print(f"{program}: {line}", file=sys.stderr)
        sys.exit(REFUSED)
