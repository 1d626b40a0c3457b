"""Events out of CSV, JSON lines and Parquet files."""

import csv
import gzip
import json
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ops.event_file import EventFile
from schemas.event import Event
from schemas.field_mapping import TimeUnit
from schemas.settings import Refused

COLUMNS = {"user_id": "user", "item_id": "item", "timestamp": "at"}
ROWS = [
    {"user": "a", "item": "1", "at": 20},
    {"user": "é", "item": "2, or 3", "at": 10},
    {"user": "a", "item": "1", "at": 20},
]
EVENTS = [Event("a", "1", 20_000), Event("é", "2, or 3", 10_000), Event("a", "1", 20_000)]

Rows = Sequence[dict[str, Any]]


def write_csv(path: Path, rows: Rows) -> None:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, rows[0])
        lines.writeheader()
        lines.writerows(rows)


def write_json_lines(path: Path, rows: Rows) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "a.csv": write_csv,
    "a.csv.gz": write_csv,
    "a.jsonl": write_json_lines,
    "a.jsonl.gz": write_json_lines,
    "a.ndjson": write_json_lines,
    "a.parquet": write_parquet,
}
every_kind = pytest.mark.parametrize("name", WRITERS)
each_kind = pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])


def read(path: Path, rows: Rows, unit: TimeUnit | None = "s", skip: bool = False, **other: str) -> list[Event]:
    WRITERS[path.name](path, rows)
    return list(EventFile(path, COLUMNS | other, unit, skip=skip))


@every_kind
def test_events_are_those_of_the_file_in_its_order(name: str, tmp_path: Path):
    assert read(tmp_path / name, ROWS) == EVENTS


@every_kind
def test_a_file_can_be_read_again(name: str, tmp_path: Path):
    WRITERS[name](tmp_path / name, ROWS)
    file = EventFile(tmp_path / name, COLUMNS, "s")
    assert list(file) == list(file) == EVENTS


@each_kind
def test_type_and_id_are_read_where_they_have_their_own_names(name: str, tmp_path: Path):
    rows = [{**row, "event_type": "buy", "event_id": "e"} for row in ROWS]
    assert read(tmp_path / name, rows) == [e._replace(event_type="buy", event_id="e") for e in EVENTS]


@each_kind
def test_any_column_can_have_another_name(name: str, tmp_path: Path):
    rows = [{**row, "kind": "buy", "event_type": "no", "uuid": "e"} for row in ROWS]
    found = read(tmp_path / name, rows, event_type="kind", event_id="uuid")
    assert found == [e._replace(event_type="buy", event_id="e") for e in EVENTS]


@each_kind
def test_whole_numbers_are_ids(name: str, tmp_path: Path):
    assert read(tmp_path / name, [{"user": 7, "item": 8, "at": 1}]) == [Event("7", "8", 1000)]


@each_kind
@pytest.mark.parametrize(
    ("time", "unit"), [(1.5, "s"), (1500, "ms"), (1_500_000, "us"), ("1970-01-01T00:00:01.5Z", "iso")]
)
def test_times_are_in_the_unit_that_is_said(time: object, unit: TimeUnit, name: str, tmp_path: Path):
    assert read(tmp_path / name, [{**ROWS[0], "at": time}], unit) == [Event("a", "1", 1500)]


@each_kind
def test_without_a_unit_numbers_are_refused(name: str, tmp_path: Path):
    with pytest.raises(Refused, match=rf"{name}: say in what unit at is, with --time-unit"):
        read(tmp_path / name, ROWS, None)


@pytest.mark.parametrize(
    "time",
    [
        datetime(2024, 5, 31, tzinfo=UTC),
        datetime(2024, 5, 31, 2, tzinfo=timezone(timedelta(hours=2))),
        datetime(2024, 5, 31),
        date(2024, 5, 31),
    ],
    ids=["utc", "zone", "no zone", "date"],
)
def test_parquets_own_times_need_no_unit(time: object, tmp_path: Path):
    assert read(tmp_path / "a.parquet", [{**ROWS[0], "at": time}], None) == [Event("a", "1", 1_717_113_600_000)]


def test_parquets_nanoseconds_are_cut_at_milliseconds(tmp_path: Path):
    times = pa.array([1_500_999_999], pa.timestamp("ns"))
    pq.write_table(pa.table({"user": ["a"], "item": ["1"], "at": times}), tmp_path / "a.parquet")
    assert list(EventFile(tmp_path / "a.parquet", COLUMNS)) == [Event("a", "1", 1500)]


def test_in_json_a_dot_leads_into_an_object(tmp_path: Path):
    rows = [{"who": {"id": "a"}, "item": "1", "at": 1}]
    assert read(tmp_path / "a.jsonl", rows, user_id="who.id") == [Event("a", "1", 1000)]


def test_in_a_header_a_dot_is_a_dot(tmp_path: Path):
    (tmp_path / "a.csv").write_text("\ufeffwho.id,item,at\na,1,1\n")
    assert list(EventFile(tmp_path / "a.csv", COLUMNS | {"user_id": "who.id"}, "s")) == [Event("a", "1", 1000)]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_empty_lines_are_none(name: str, tmp_path: Path):
    WRITERS[name](tmp_path / name, ROWS)
    with (tmp_path / name).open("a") as file:
        file.write("\n\n")
    assert list(EventFile(tmp_path / name, COLUMNS, "s")) == EVENTS


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"user": ""}, "user_id: must be 1 to 256 bytes, got ''"),
        ({"item": "é" * 129}, "item_id: must be 1 to 256 bytes, got 'é"),
        ({"at": -1}, "timestamp: must be a number of seconds, from 1970 to 2106, got -1"),
        ({"at": None}, "timestamp: must be (there|a number of seconds.*), got (None|'')"),
        ({"event_id": "x" * 257}, "event_id: must be 1 to 256 bytes, got 'x"),
    ],
    ids=["user", "item", "time", "no time", "id"],
)
@pytest.mark.parametrize(("name", "place"), [("a.csv", "line 3"), ("a.jsonl", "line 2"), ("a.parquet", "row 2")])
def test_a_row_that_is_no_event_is_refused_with_its_place(
    wrong: dict[str, Any], reason: str, name: str, place: str, tmp_path: Path
):
    good = {**ROWS[0], "event_id": "e"}
    with pytest.raises(Refused, match=rf"{name}, {place}: {reason}"):
        read(tmp_path / name, [good, good | wrong, good])


@each_kind
def test_rows_that_are_no_events_can_be_left_out_and_are_counted(name: str, tmp_path: Path):
    WRITERS[name](tmp_path / name, [ROWS[0], {**ROWS[0], "user": ""}, ROWS[1], {**ROWS[0], "item": "x" * 300}])
    file = EventFile(tmp_path / name, COLUMNS, "s", skip=True)
    for _ in range(2):
        assert list(file) == EVENTS[:2]
        assert file.skipped == 2
        assert " user_id: " in file.first_skipped


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.csv",
            b"user,item,at\na,1,1\na,1\n",
            r"line 3: row: must have 3 fields, as the header has, got \['a', '1'\]",
        ),
        ("a.csv", b"user,item,at\na,1,soon\n", "line 2: timestamp: must be a number of seconds.*got 'soon'"),
        ("a.csv", b"user,item,at\na,1,nan\n", "line 2: timestamp: must be a number of seconds.*got nan"),
        ("a.csv", b"user,at\na,1\n", "no column 'item' among user, at: name it with --item-column"),
        ("a.csv", b"", "no column 'user' among"),
        ("a.csv", b"user,item,at\n\xff,1,1\n", "can't decode byte 0xff"),
        ("a.csv", b'user,item,at\n"a"b,1,1\n', "',' expected after '\"'"),
        ("a.csv.gz", b"user,item,at\n", "Not a gzipped file"),
        ("a.csv.gz", gzip.compress(b"user,item,at\n" + b"a,1,1\n" * 99, mtime=0)[:-9], "Compressed file ended"),
        ("a.jsonl", b'{"user":"a","item":"1","at":1}\n[1]\n', r"line 2: line: must be a JSON object, got b'\[1\]"),
        ("a.jsonl", b'{"user":"a",', r"line 1: line: must be a JSON object \(.*got b'{\"user"),
        ("a.jsonl", b"[" * 100_000, r"line 1: line: must be a JSON object \("),
        ("a.jsonl", b'{"user":"\xff"}', r"line 1: line: must be a JSON object \(.*0xff"),
        ("a.jsonl", b'{"user":"a","item":"1","at":NaN}', "line 1: timestamp: must be a number of seconds.*got nan"),
        ("a.parquet", b"PAR1", "Parquet"),
        ("a.txt", b"", "must end in .inter, .csv"),
        ("a", b"", "must end in .inter, .csv"),
    ],
)
def test_a_wrong_file_is_refused_by_name(name: str, content: bytes, reason: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=reason) as raised:
        list(EventFile(tmp_path / name, COLUMNS, "s"))
    assert str(raised.value).startswith(str(tmp_path / name))
    assert "\n" not in str(raised.value)


@each_kind
def test_a_missing_file_is_refused_by_name(name: str, tmp_path: Path):
    with pytest.raises(Refused, match=f"{name}: No such file or directory"):
        list(EventFile(tmp_path / name, COLUMNS, "s"))


def test_a_parquet_column_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(Refused, match="no column 'who' among user, item, at: name it with --user-column"):
        read(tmp_path / "a.parquet", ROWS, user_id="who")


@each_kind
def test_a_large_file_is_read_in_little_memory(name: str, tmp_path: Path):
    rows = [{"user": f"user {i % 1000}", "item": f"item {i}", "at": i} for i in range(60_000)]
    WRITERS[name](tmp_path / name, rows)
    del rows
    file = EventFile(tmp_path / name, COLUMNS, "s")
    seen = []
    next(iter(file))  # what is imported for it counts for nothing
    tracemalloc.start()
    for number, _ in enumerate(file):
        if number % 20_000 == 15_000:
            seen.append((tracemalloc.get_traced_memory()[0], file.done))
    tracemalloc.stop()
    assert max(memory for memory, _ in seen) < 10_000_000  # the events alone are 20 million bytes
    assert 0 < seen[0][1] < seen[1][1] < seen[2][1] <= 1
