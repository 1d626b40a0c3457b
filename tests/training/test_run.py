from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.settings import FAILED, REFUSED, Refused, run_command
from training.__main__ import main
from training.fitting.recipe import Recipe
from training.run import Run


def test_without_options_the_recipe_is_the_default_one() -> None:
    assert Run.model_validate({}).recipe == Recipe()


def test_options_change_the_recipe() -> None:
    run = Run.model_validate({"seed": 7, "epochs": 3, "minutes": 1.5})
    assert (run.recipe.seed, run.recipe.epochs, run.recipe.minutes) == (7, 3, 1.5)


def test_options_for_sparse_data_and_large_catalogues_reach_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Recipe] = []

    def keep(run: Run) -> int:
        found.append(run.recipe)
        return 0

    monkeypatch.setattr(Run, "run", keep)
    given = ["--ahead", "0.5,0.25", "--negatives", "99", "--no-mask-seen", "--no-co-occurrence"]
    assert run_command("training run", Run, given) == 0
    assert found == [Recipe(ahead=(0.5, 0.25), negatives=99, mask_seen=False, co_occurrence=False)]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("90m", 5400), ("6h", 21_600), ("0.5d", 43_200)])
def test_intervals_have_a_unit(text: str, seconds: float) -> None:
    assert Run.model_validate({"every": text}).every == seconds


@pytest.mark.parametrize("text", ["6", "six hours", "0h", "-1h"])
def test_an_interval_without_a_unit_or_a_length_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="every"):
        Run.model_validate({"every": text})


def test_a_file_that_is_missing_or_malformed_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("schemas.logs.configure", lambda _level: None)
    missing = tmp_path / "a.inter"
    assert run_command("training run", Run, ["--from-inter", str(missing)]) == REFUSED
    missing.write_text("user_id:token\n")
    assert run_command("training run", Run, ["--from-inter", str(missing)]) == REFUSED
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "line 1: no column 'item_id'" in lines[1]


@pytest.mark.parametrize("error", [OSError("disc full"), RuntimeError("out of\nmemory"), ZeroDivisionError("0 / 0")])
def test_a_retraining_that_fails_is_one_line_and_status_1(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_run: Run) -> None:
        raise error

    monkeypatch.setattr("training.job.retrain_once", fail)
    monkeypatch.setattr("schemas.logs.configure", lambda _level: None)
    monkeypatch.setattr("sys.argv", ["training", "run"])
    assert main() == FAILED
    assert capsys.readouterr().err == f"python -m training: {' '.join(str(error).split())}\n"


def test_with_an_interval_only_a_refusal_ends_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter([OSError("disc full"), RuntimeError("out of memory"), Refused("no such store")])

    def fail(_run: Run) -> None:
        raise next(ends)

    monkeypatch.setattr("training.job.retrain_once", fail)
    assert run_command("training run", Run, ["--every", "0.01s"]) == REFUSED
    *failures, refusal = capsys.readouterr().err.splitlines()
    assert ["disc full" in failures[0], "out of memory" in failures[1], refusal] == [
        True,
        True,
        "training run: no such store",
    ]
