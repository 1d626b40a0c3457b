import gzip
from pathlib import Path

import pytest

from training.recbole import MalformedInter, read_inter

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.inter", "a.inter.gz"])
def test_a_file_is_read_in_order_of_time_plain_and_gzipped(tmp_path: Path, name: str) -> None:
    histories = read_inter(write(tmp_path / name, HEADER + "u\tlate\t3\t2.5\nv\tx\t1\t7\nu\tearly\t5\t1\n"))
    assert histories.items.tolist() == [0, 1, 2]
    assert histories.item_ids == ["early", "late", "x"]
    assert histories.timestamps_ms.tolist() == [1000, 2500, 7000]


def test_the_header_gives_the_order_of_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.inter", "timestamp:float\titem_id:token\tuser_id:token\r\n1\tx\tu\r\n")
    assert read_inter(path).item_ids == ["x"]


def test_equal_times_keep_the_order_of_the_file(tmp_path: Path) -> None:
    histories = read_inter(write(tmp_path / "a.inter", HEADER + "u\tb\t1\t1\nu\ta\t1\t1\n"))
    assert histories.item_ids == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id:token\ttimestamp:float\n", r"a\.inter, line 1: no column 'item_id:token' among"),
        (HEADER, r"a\.inter: no interactions"),
        ("", r"a\.inter, line 1: no column 'user_id:token'"),
        (HEADER + "u\tx\t1\t1\nu\tx\t1\n", r"a\.inter, line 3: 3 fields, the header names 4"),
        (HEADER + "\tx\t1\t1\n", r"a\.inter, line 2, field 'user_id:token': empty"),
        (HEADER + "u\tx\t1\tnoon\n", r"a\.inter, line 2, field 'timestamp:float': 'noon' is not a number"),
        (HEADER + "u\tx\t1\tnan\n", r"a\.inter, line 2, field 'timestamp:float': 'nan' is not a number"),
    ],
)
def test_a_malformed_file_is_named_with_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MalformedInter, match=message):
        read_inter(write(tmp_path / "a.inter", text))


def test_a_file_that_is_only_called_gz_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "a.inter.gz").write_text(HEADER)
    with pytest.raises(MalformedInter, match=r"a\.inter\.gz: Not a gzipped file"):
        read_inter(tmp_path / "a.inter.gz")
