"""RecBole's atomic files."""

import gzip
from pathlib import Path

import pytest

from schemas.atomic_file import read
from schemas.settings import Refused

TEXT = "item_id:token\tuser_id:token\tnote:token_seq\n7\tanna\ttwo words\n8\tbo\t\n"
ROWS = [{"item_id": "7", "user_id": "anna", "note": "two words"}, {"item_id": "8", "user_id": "bo", "note": ""}]


def test_fields_are_found_by_their_column_without_its_type(tmp_path: Path):
    path = tmp_path / "a.inter"
    path.write_text(TEXT)
    assert list(read(path)) == ROWS


def test_a_gzipped_file_reads_like_a_plain_one(tmp_path: Path):
    path = tmp_path / "a.inter.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert list(read(path)) == ROWS


def test_windows_line_ends_are_no_part_of_a_field(tmp_path: Path):
    path = tmp_path / "a.inter"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert list(read(path)) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.inter", b"user_id:token\titem_id:token\n1\t2\n1\n", "a.inter, line 3: 1 fields, the header names 2"),
        ("a.inter", b"user_id:token\n\xff\n", "a.inter: .*utf-8"),
        ("a.inter.gz", b"no gzip", "a.inter.gz: .*[Nn]ot a gzipped file"),
        ("a.inter.gz", gzip.compress(TEXT.encode(), mtime=0)[:-9], "a.inter.gz: .*end"),
        ("a.inter.gz", gzip.compress(TEXT.encode(), mtime=0)[:10] + b"\xff" * 20, "a.inter.gz: .*invalid"),
        ("a.inter", b"", "a.inter, line 1: no column 'user_id'"),
    ],
    ids=["fields", "encoding", "gzip", "cut", "corrupt", "empty"],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str, content: bytes, reason: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Refused, match=reason):
        list(read(path, "user_id"))


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match=r"none\.inter: No such file"):
        list(read(tmp_path / "none.inter"))
