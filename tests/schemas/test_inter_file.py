"""Events out of `.inter` files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import Event
from schemas.inter_file import Interactions, read_interactions
from schemas.settings import Refused

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.inter"


def test_events_come_in_time_order_and_equal_times_in_the_files_order(path: Path):
    path.write_text(HEADER + "a\t1\t5\t20\n" + "b\t2\t4\t10\n" + "c\t3\t3\t20\n")
    events = list(read_interactions(path).events())
    assert events == [Event("b", "2", 10_000), Event("a", "1", 20_000), Event("c", "3", 20_000)]


def test_many_events_of_one_time_stay_in_the_files_order(path: Path):
    path.write_text(HEADER + "".join(f"a\t{n}\t5\t{n % 2}\n" for n in range(1000)))
    item_ids = [event.item_id for event in read_interactions(path).events()]
    assert item_ids == [str(n) for n in [*range(0, 1000, 2), *range(1, 1000, 2)]]


@pytest.mark.parametrize(("seconds", "timestamp_ms"), [("881250949", 881_250_949_000), ("0.0015", 2), ("1e3", 10**6)])
def test_seconds_become_the_nearest_milliseconds(path: Path, seconds: str, timestamp_ms: int):
    path.write_text(HEADER + f"a\t1\t5\t{seconds}\n")
    assert next(read_interactions(path).events()).timestamp_ms == timestamp_ms


def test_times_are_plain_integers_for_the_wire(path: Path):
    path.write_text(HEADER + "a\t1\t5\t20\n")
    assert type(next(read_interactions(path).events()).timestamp_ms) is int


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_parts_before_and_after_a_fraction_have_each_event_once(n: int, fraction: float):
    interactions = numbered(n)
    parts = interactions.part(0, fraction), interactions.part(fraction, 1)
    assert [event for part in parts for event in part.events()] == list(interactions.events())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a\t1\t5\tsoon", "line 3: timestamp: must be a number of seconds in 0.*got 'soon'"),
        ("a\t1\t5\t-1", "line 3: timestamp: must be a number of seconds in 0.*got '-1'"),
        ("a\t1\t5\tnan", "line 3: timestamp: must be a number of seconds in 0.*got 'nan'"),
        ("\t1\t5\t1", "line 3: user_id: must be 1 to 256 bytes, got ''"),
        ("a\t" + "é" * 129 + "\t5\t1", "line 3: item_id: must be 1 to 256 bytes, got 'é"),
    ],
    ids=["text", "negative", "nan", "empty", "long"],
)
def test_a_line_that_is_no_event_is_refused_with_its_number(path: Path, line: str, reason: str):
    path.write_text(HEADER + "a\t1\t5\t1\n" + line + "\n")
    with pytest.raises(Refused, match=f"a.inter, {reason}"):
        read_interactions(path)


def test_the_header_gives_the_order_of_the_columns(path: Path):
    path.write_text("timestamp:float\titem_id:token\tuser_id:token\n1\tx\tu\n")
    assert list(read_interactions(path).events()) == [Event("u", "x", 1000)]


def test_a_missing_column_is_named(path: Path):
    path.write_text("user_id:token\titem_id:token\na\t1\n")
    with pytest.raises(Refused, match=r"a\.inter, line 1: no column 'timestamp' among user_id, item_id"):
        read_interactions(path)


def test_a_file_without_events_is_refused(path: Path):
    path.write_text(HEADER)
    with pytest.raises(Refused, match="no interactions"):
        read_interactions(path)


def numbered(n: int) -> Interactions:
    return Interactions([f"u{i}" for i in range(n)], [f"i{i}" for i in range(n)], np.arange(n))
