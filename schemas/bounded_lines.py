"""Lines of a text or binary file that may come from anywhere: none takes more memory than a line should."""

from collections.abc import Iterator
from typing import IO, AnyStr, Final

MAX_LINE: Final = 1 << 20
"""characters, or bytes: sixteen times an event, and a gzip file of a kilobyte can hold a line as long"""


def bounded_lines(file: IO[AnyStr], longest: int = MAX_LINE) -> Iterator[AnyStr]:
    """The file's lines with their ends, as iterating over it gives them.

    Raises:
        ValueError: a line is longer than `longest`.
    """
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise ValueError(f"line {number} is longer than {longest} characters")
        yield line
