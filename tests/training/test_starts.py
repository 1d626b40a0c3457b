import json
from pathlib import Path

import pytest

from schemas.settings import DONE, REFUSED, run_command
from training.starts import Starts


def write(path: Path, *, timed: bool, users: int = 9) -> None:
    walks = [(user, time) for time in range(40) for user in range(users)]
    rows = [f"u{user}\ti{(7 * user + time + user * time % 5) % 60}\t{time if timed else 0}\n" for user, time in walks]
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))


def test_three_models_are_asked_for_the_same_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "walks.inter", timed=True)
    assert run_command("starts", Starts, [str(tmp_path / "walks.inter"), "--seeds=1", "--epochs=2", "--json"]) == DONE
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    models = [told[name] for name in ("old_champion", "full_retraining", "fine_tuning")]
    assert {model["events"] for model in models} == {9 * 4}
    assert all(model["seconds"] > 0 for model in models)
    assert told["gap"] is None  # 36 events are too few to compare


def test_fine_tuning_is_held_against_a_full_retraining(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "walks.inter", timed=True, users=70)
    given = [str(tmp_path / "walks.inter"), "--seeds=1", "--epochs=12", "--json"]
    assert run_command("starts", Starts, given) == DONE
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    gap, full, tuned = (told[name] for name in ("gap", "full_retraining", "fine_tuning"))
    assert gap["difference"] == pytest.approx(tuned["ndcg_at_10"] - full["ndcg_at_10"])
    assert gap["low"] < gap["difference"] < gap["high"]


def test_a_file_without_times_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "walks.inter", timed=False)
    assert run_command("starts", Starts, [str(tmp_path / "walks.inter")]) == REFUSED
    assert "must have real times" in capsys.readouterr().err


@pytest.mark.parametrize("events", [1, 2, 9])
def test_a_file_too_short_to_be_split_is_refused(
    events: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"u\ti{time}\t{time}\n" for time in range(events))
    (tmp_path / "short.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    assert run_command("starts", Starts, [str(tmp_path / "short.inter")]) == REFUSED
    assert f"must have 100 events, {tmp_path / 'short.inter'} has {events}" in capsys.readouterr().err
