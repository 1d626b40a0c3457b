import json
from pathlib import Path

import pytest

from schemas.settings import DONE, REFUSED
from training.__main__ import main

USERS, EVENTS = 12, 15


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """A file of users who walk a ring of items."""
    rows = [f"u{user}\ti{(user + time) % 9}\t{time}\n" for user in range(USERS) for time in range(EVENTS - user % 3)]
    path = tmp_path / "ring.inter"
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["training", "reproduce", *arguments])
    return main()


def test_the_last_line_has_the_metrics_and_no_paper_for_an_unknown_data_set(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, str(ring), "--protocol", "leave-one-out", "--minutes", "0.02", "--rival", "--json") == DONE
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    for result in (told, told["sasrec"]):
        assert 0 <= result["ndcg_10"] <= result["recall_10"] <= result["recall_20"] <= 1
    assert told["minutes"] > 0
    assert told["paper"] is None
    assert told["recipe"]["window"] == 50


def test_a_person_sees_each_seed_their_mean_and_the_papers_row(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ring.rename(ring.with_name("ml-1m.inter"))
    assert call(monkeypatch, str(known), "--recipe", "size", "--minutes", "0.01", "--seeds", "0,1") == DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[3:]] == ["LRURec seed 0", "LRURec seed 1", "LRURec mean", "the paper"]
    assert lines[-1].split() == ["the", "paper", "0.3264", "0.1930", "0.4331", "0.2199"]
    assert len({len(line) for line in lines[3:-1]}) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--recipe", "nonsense"], "recipe 'nonsense' is not in training/fitting/recipes.toml, there are: beauty, "),
        (["--seeds", "0;1"], "seeds: 0: input should be a valid integer"),
        (["--protocol", "random"], "protocol: "),
    ],
)
def test_a_wrong_setting_is_one_line(
    ring: Path,
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, str(ring), *arguments) == REFUSED
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert told in said[0]


def test_a_file_that_is_missing_or_has_nobody_to_test_on_says_so(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, str(ring.with_name("missing.inter"))) == REFUSED
    short = ring.with_name("short.inter")
    short.write_text("".join(ring.read_text().splitlines(keepends=True)[:3]))
    assert call(monkeypatch, str(short)) == 1
    assert "no user of" in capsys.readouterr().err.splitlines()[-1]
