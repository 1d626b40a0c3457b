"""Events out of CSV, JSON lines and Parquet files: one at a time, in the file's order, whatever the file's size."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from schemas.bounded_lines import bounded_lines
from schemas.event import DEFAULT_TYPE, Event, identifier
from schemas.field_mapping import FieldMapping, TimeUnit
from schemas.malformed import Malformed
from schemas.settings import Refused

OPTIONS: Final = {
    "user_id": "--user-column",
    "item_id": "--item-column",
    "timestamp": "--time-column",
    "event_type": "--event-type-column",
    "event_id": "--event-id-column",
}
_BATCH: Final = 10_000

Columns = Mapping[str, str]
"""by the contract's field"""
Fields = dict[str, Any] | Malformed


class _Table(NamedTuple):
    """An opened file."""

    rows: Iterable[tuple[int, Fields]]
    """number, from 1 on, and content"""
    done: Callable[[int], float]
    """share of the file that is read at a row"""
    columns: Columns
    """what the content calls the contract's fields, where it has other names"""
    time_unit: TimeUnit | None = None
    """if the file says so itself"""
    counted: str = "line"


class EventFile:
    """The events of a file. It is read anew each time it is iterated over, and takes no more memory for a larger file.

    Args:
        path: ends in .csv, .jsonl or .ndjson, each also with .gz, or in .parquet.
        columns: the file's columns; `event_type` and `event_id` may be left out, a column of that name is taken then.
        time_unit: of the times, but for those of a Parquet file that have one.
        skip: leave out rows that are no events, instead of raising.

    Raises:
        Refused: another kind of file.
    """

    def __init__(self, path: Path, columns: Columns, time_unit: TimeUnit | None = None, *, skip: bool = False) -> None:
        try:
            self._open = _KINDS[path.name.removesuffix(".gz").rpartition(".")[2]]
        except KeyError:
            raise Refused(
                f"{path}: must end in .inter, .csv, .jsonl or .ndjson, each also with .gz, or in .parquet"
            ) from None
        self._path = path
        self._columns = columns
        self._time_unit = time_unit
        self._skip = skip
        self.done = 0.0
        """share of the file that is read, brought up to date every 10,000 rows"""
        self.skipped = 0
        """rows left out"""
        self.first_skipped = ""
        """which one, and why"""

    def __iter__(self) -> Iterator[Event]:
        """Read the file.

        Raises:
            Refused: it cannot be read, a column is missing, the unit of its times is not known, or a row is no event.
        """
        self.skipped = 0
        try:
            with self._open(self._path, self._columns) as table:
                mapping = self._mapping(table)
                for number, fields in table.rows:
                    if not number % _BATCH:
                        self.done = table.done(number)
                    try:
                        event = _event(mapping, fields)
                    except Malformed as malformed:
                        self._refuse(f"{table.counted} {number}: {malformed}")
                    else:
                        yield event
        except (OSError, EOFError, NotImplementedError, ValueError, csv.Error, zlib.error) as error:
            raise Refused(f"{self._path}: {getattr(error, 'strerror', None) or error}") from None

    def _mapping(self, table: _Table) -> FieldMapping:
        if (unit := table.time_unit or self._time_unit) is None:
            raise Refused(f"{self._path}: say in what unit {self._columns['timestamp']} is, with --time-unit")
        return FieldMapping(table.columns, unit)

    def _refuse(self, reason: str) -> None:
        if not self._skip:
            raise Refused(f"{self._path}, {reason}")
        self.first_skipped = self.first_skipped or reason
        self.skipped += 1


@dataclass(frozen=True)
class Part:
    """The events of a file from one place on up to another."""

    file: EventFile
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def events(self) -> Iterator[Event]:
        """The events, in the file's order."""
        return islice(self.file, self.start, self.stop)


def _event(mapping: FieldMapping, own: Fields) -> Event:
    if isinstance(own, Malformed):
        raise own
    fields = mapping.read(own)
    if fields["timestamp"] is None:
        raise Malformed("timestamp", None, "must be there")
    event_type, event_id = fields["event_type"], fields["event_id"]
    return Event(
        identifier("user_id", fields["user_id"]),
        identifier("item_id", fields["item_id"]),
        fields["timestamp"],
        DEFAULT_TYPE if event_type is None else identifier("event_type", event_type),
        None if event_id is None else identifier("event_id", event_id),
    )


@contextmanager
def _csv(path: Path, columns: Columns) -> Iterator[_Table]:
    with _opened(path) as (file, done), TextIOWrapper(file, "utf-8-sig", newline="") as text:
        lines = csv.reader(bounded_lines(text), strict=True)
        header = next(lines, [])
        places = {field: header.index(column) for field, column in _found(path, columns, header).items()}
        yield _Table(_csv_rows(lines, len(header), places), done, {})


def _csv_rows(lines: Any, width: int, places: Mapping[str, int]) -> Iterator[tuple[int, Fields]]:
    for row in lines:
        if len(row) == width:
            fields: dict[str, Any] = {field: row[place] for field, place in places.items()}
            fields["timestamp"] = _number(fields["timestamp"])
            for field in ("event_type", "event_id"):
                fields[field] = fields.get(field) or None
            yield lines.line_num, fields
        elif row:  # an empty line is none
            yield lines.line_num, Malformed("row", row, f"must have {width} fields, as the header has")


def _number(text: str) -> int | float | str:
    """A number if it is one; whether it must be depends on the unit."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@contextmanager
def _json_lines(path: Path, columns: Columns) -> Iterator[_Table]:
    with _opened(path) as (file, done):
        rows = (
            (number, _json_fields(line)) for number, line in enumerate(bounded_lines(file), 1) if not line.isspace()
        )
        yield _Table(rows, done, columns)


def _json_fields(line: bytes) -> Fields:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Malformed("line", line, f"must be a JSON object ({str(error) or 'nested too deeply'})")
    return fields if type(fields) is dict else Malformed("line", line, "must be a JSON object")


@contextmanager
def _parquet(path: Path, columns: Columns) -> Iterator[_Table]:
    # imported only now, for the other commands' sake
    from pyarrow import types
    from pyarrow.parquet import ParquetFile

    with path.open("rb") as raw, ParquetFile(raw) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
        found = _found(path, columns, schema.names)
        kind = schema.field(found["timestamp"]).type
        is_time = types.is_timestamp(kind) or types.is_date(kind)
        yield _Table(
            _parquet_rows(file, found, is_time),
            lambda number: number / count,
            {},
            time_unit="ms" if is_time else None,
            counted="row",
        )


def _parquet_rows(file: Any, columns: Columns, is_time: bool) -> Iterator[tuple[int, Fields]]:
    from pyarrow import int64, timestamp

    number = 0
    for batch in file.iter_batches(_BATCH, columns=list(columns.values())):
        arrays = {field: batch.column(column) for field, column in columns.items()}
        if is_time:
            zone = getattr(arrays["timestamp"].type, "tz", None)
            arrays["timestamp"] = arrays["timestamp"].cast(timestamp("ms", zone), safe=False).cast(int64())
        for values in zip(*(array.to_pylist() for array in arrays.values()), strict=True):
            number += 1
            yield number, dict(zip(arrays, values, strict=True))


def _found(path: Path, columns: Columns, names: Sequence[str]) -> Columns:
    """The wanted columns, and of those that need not be there the ones that are."""
    for field, column in columns.items():
        if column not in names:
            raise Refused(f"{path}: no column {column!r} among {', '.join(names)}: name it with {OPTIONS[field]}")
    return {field: field for field in ("event_type", "event_id") if field in names} | dict(columns)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], Callable[[int], float]]]:
    """A file, unzipped if need be, and how far it is read."""
    with ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(path.open("rb"))
        size = max(1, path.stat().st_size)
        file: Any = stack.enter_context(gzip.open(raw)) if path.suffix == ".gz" else raw
        yield file, lambda _: raw.tell() / size


_KINDS: Final[Mapping[str, Callable[[Path, Columns], AbstractContextManager[_Table]]]] = {
    "csv": _csv,
    "jsonl": _json_lines,
    "ndjson": _json_lines,
    "parquet": _parquet,
}
