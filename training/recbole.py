"""RecBole's atomic files: `.inter`, tab separated, plain or gzipped.

The header names the columns in any order: `user_id:token`, `item_id:token`, `timestamp:float` (seconds) and possibly
others, such as `rating:float`, which are ignored.
"""

import gzip
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from training.histories import Histories, HistoryBuilder

COLUMNS = ("user_id:token", "item_id:token", "timestamp:float")


class MalformedInter(ValueError):
    """A file that is not a RecBole `.inter` file; the message names file, line and field."""


def read_inter(path: Path) -> Histories:
    """Read all interactions, ordered by timestamp (equal ones by their order in the file).

    Raises:
        MalformedInter: a column is missing, or a line has an empty or unreadable field.
        OSError: the file cannot be read.
    """
    builder = HistoryBuilder()
    for timestamp_s, user_id, item_id in sorted(_rows(path), key=lambda row: row[0]):
        builder.add(user_id, item_id, round(timestamp_s * 1000))
    if not len(builder):
        raise MalformedInter(f"{path}: no interactions after the header")
    return builder.build()


def _rows(path: Path) -> Iterator[tuple[float, str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        try:
            header = lines.readline().rstrip("\r\n").split("\t")
            for column in COLUMNS:
                if column not in header:
                    raise MalformedInter(f"{path}, line 1: no column {column!r} among {header}")
            user, item, timestamp = map(header.index, COLUMNS)
            for number, line in enumerate(lines, start=2):
                fields = line.rstrip("\r\n").split("\t")
                if len(fields) != len(header):
                    raise MalformedInter(f"{path}, line {number}: {len(fields)} fields, the header names {len(header)}")
                for index in (user, item):
                    if not fields[index]:
                        raise MalformedInter(f"{path}, line {number}, field {header[index]!r}: empty")
                yield _timestamp_s(path, number, fields[timestamp]), fields[user], fields[item]
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise MalformedInter(f"{path}: {error}") from error


def _timestamp_s(path: Path, number: int, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not isfinite(seconds):
        raise MalformedInter(f"{path}, line {number}, field {COLUMNS[2]!r}: {text!r} is not a number of seconds")
    return seconds
