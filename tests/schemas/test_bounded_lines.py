"""Lines that end, and those that do not."""

import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.event_file import EventFile
from schemas.atomic_file import read
from schemas.bounded_lines import MAX_LINE, bounded_lines
from schemas.settings import Refused


@given(st.lists(st.sampled_from(["", "a", "bc"])).map("\n".join))
def test_they_are_the_files_own(text: str):
    assert list(bounded_lines(io.StringIO(text), 2 + 1)) == list(io.StringIO(text))
    assert list(bounded_lines(io.BytesIO(text.encode()), 2 + 1)) == list(io.BytesIO(text.encode()))


def test_one_that_is_too_long_is_named():
    lines = bounded_lines(io.StringIO("ab\nabc\n"), 3)
    assert next(lines) == "ab\n"
    with pytest.raises(ValueError, match="line 2 is longer than 3 characters"):
        next(lines)


@pytest.mark.parametrize("name", ["bomb.csv.gz", "bomb.jsonl.gz", "bomb.inter.gz"])
def test_a_small_file_that_unpacks_to_an_endless_line_is_refused(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"x" * (20 * MAX_LINE)))
    assert path.stat().st_size < MAX_LINE / 10
    columns = {"user_id": "user", "item_id": "item", "timestamp": "at"}
    rows = read(path, "user_id") if ".inter" in name else EventFile(path, columns, "ms")
    with pytest.raises(Refused, match=f"line 1 is longer than {MAX_LINE} characters"):
        list(rows)
