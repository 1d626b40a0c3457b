"""RecBole's atomic files: tab-separated tables with a typed header such as ``user_id:token``, plain or gzipped."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from schemas.bounded_lines import bounded_lines
from schemas.settings import Refused


def read(path: Path, *needed: str) -> Iterator[dict[str, str]]:
    """The lines of an atomic file, each as field by column name without its type, in the file's order.

    Raises:
        Refused: the file cannot be read, is not gzip or UTF-8, lacks a `needed` column, or a line has not as many
            fields as the header, or is too long.
    """
    try:
        with _open(path) as file:
            lines = bounded_lines(file)
            columns = [column.partition(":")[0] for column in next(lines, "").rstrip("\r\n").split("\t")]
            for name in needed:
                if name not in columns:
                    raise Refused(f"{path}, line 1: no column {name!r} among {', '.join(columns)}")
            for number, line in enumerate(lines, start=2):
                fields = line.rstrip("\r\n").split("\t")
                if len(fields) != len(columns):
                    raise Refused(f"{path}, line {number}: {len(fields)} fields, the header names {len(columns)}")
                yield dict(zip(columns, fields, strict=True))
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}") from error
    except (EOFError, ValueError, zlib.error) as error:  # what is not UTF-8 is a ValueError
        raise Refused(f"{path}: {error}") from error


def _open(path: Path) -> TextIO:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
