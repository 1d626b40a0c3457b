"""The file that a command takes its events from, as its options say."""

import re
from pathlib import Path

import pytest

from ops.source import Source
from schemas.event import Event
from schemas.settings import DONE, FAILED, REFUSED, run_command

CSV = "user_id,item_id,timestamp\n" + "".join(f"u,{number},{1000 - number}\n" for number in range(100))


class Show(Source):
    """Show what is read."""

    def run(self) -> int:
        events, skipped = self.read(self.path())
        found = list(events.events())
        print(skipped, *(event.item_id for event in found))
        return DONE if len(found) == len(events) else FAILED


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_text(CSV)
    return path


def show(path: Path, *options: str) -> int:
    return run_command("show", Show, [str(path), *options])


def numbers(capsys: pytest.CaptureFixture[str]) -> list[int]:
    return [int(word) for word in capsys.readouterr().out.split()]


def test_all_events_are_in_the_files_order(path: Path, capsys: pytest.CaptureFixture[str]):
    assert show(path, "--time-unit", "s") == DONE
    assert numbers(capsys) == [0, *range(100)]


def test_a_part_is_one_of_the_events_that_are_left(path: Path, capsys: pytest.CaptureFixture[str]):
    path.write_text(CSV + "u,,1\n" * 100)
    assert show(path, "--time-unit", "s", "--on-bad-row", "skip", "--from", "0.25", "--until", "0.5") == DONE
    shown = capsys.readouterr()
    assert [int(word) for word in shown.out.split()] == [100, *range(25, 50)]
    assert shown.err.startswith(
        f"{path}: 100 rows left out, the first: line 102: item_id: must be 1 to 256 bytes, got ''"
    )
    assert shown.err.count("\n") == 1


def test_columns_are_named_by_options(path: Path, capsys: pytest.CaptureFixture[str]):
    path.write_text("who,what,when,how,which\nu,7,1970-01-02,buy,e\n")
    options = "--user-column who --item-column what --time-column when --time-unit iso --event-type-column how "
    assert show(path, *options.split(), "--event-id-column", "which") == DONE
    assert numbers(capsys) == [0, 7]
    source = Show(_env_file=None, file=path, user_column="who", item_column="what", time_column="when", time_unit="iso")
    assert list(source.read(path)[0].events()) == [Event("u", "7", 86_400_000)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "a.csv: say in what unit timestamp is, with --time-unit"),
        (["--time-unit", "h"], "time_unit: input should be 's', 'ms', 'us', 'ns' or 'iso', got 'h'"),
        (["--time-unit", "s", "--user-column", "who"], "a.csv: no column 'who' among user_id, item_id, timestamp"),
        (["--time-unit", "s", "--event-id-column", "id"], "no column 'id' among.*: name it with --event-id-column"),
        (["--time-unit", "s", "--item-column", ""], "item_column: string should have at least 1 character"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(
    options: list[str], reason: str, path: Path, capsys: pytest.CaptureFixture[str]
):
    assert show(path, *options) == REFUSED
    refused(reason, capsys)


def test_options_of_other_files_are_refused_for_a_file_that_needs_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "a.inter"
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\nu\t1\t1\n")
    assert show(path) == DONE
    assert numbers(capsys) == [0, 1]
    assert show(path, "--time-unit", "ms", "--user-column", "u") == REFUSED
    refused("a.inter: --time-unit, --user-column cannot be given", capsys)


def test_a_file_without_events_is_refused(path: Path, capsys: pytest.CaptureFixture[str]):
    path.write_text("user_id,item_id,timestamp\n")
    assert show(path, "--time-unit", "s") == REFUSED
    refused("a.csv: no events", capsys)


def refused(reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(reason, line)
