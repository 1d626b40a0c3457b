"""The demo without a broker."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ops import demo
from ops.audit import Audit
from ops.demo import Demo
from schemas.inter_file import Interactions
from schemas.settings import DONE, FAILED, Settings

CLEAN = Audit(events=2, users=1, lost=0, applied_twice=0, uncovered=0, wrong_histories=0)
PAST = Interactions(["a"], ["x"], np.array([0]))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The temporary directory of a demo."""
    directory = tmp_path / "made"
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(directory))
    return directory


def run_demo(monkeypatch: pytest.MonkeyPatch, directory: Path, found: Audit | BaseException) -> int:
    def run(self: Any) -> tuple[dict[str, Any], Audit]:
        if isinstance(found, BaseException):
            raise found
        figures = demo._figures(PAST, [], [], 1.0, None, found)
        self._summarise(figures)
        return figures, found

    monkeypatch.setattr(demo._Run, "run", run)
    return Demo(_env_file=None, summary=directory / "summary.json", as_json=True).run()


def test_without_any_list_there_are_figures_with_gaps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]
):
    assert run_demo(monkeypatch, tmp_path, CLEAN) == DONE
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert figures == json.loads(capsys.readouterr().out.splitlines()[-1])
    unknown = {"p50_ms", "p99_ms", "hit_rate_10", "popular_hit_rate_10", "swap_to_first_list_s"}
    assert {name for name, value in figures.items() if value is None} == unknown
    assert (figures["lists"], figures["swaps"]) == (0, 0)
    assert not made.exists()


@pytest.mark.parametrize("error", ["lost", "applied_twice", "uncovered", "wrong_histories"])
def test_any_error_of_the_audit_fails_and_its_files_stay(
    error: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]
):
    assert run_demo(monkeypatch, tmp_path, CLEAN._replace(**{error: 1})) == FAILED
    assert json.loads((tmp_path / "summary.json").read_text())[error] == 1
    assert capsys.readouterr().err == f"data and logs are in {made}\n"
    assert made.exists()


def test_the_files_of_a_failed_step_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(OSError, match="a step"):
        run_demo(monkeypatch, tmp_path, OSError("a step"))
    assert capsys.readouterr().err == f"data and logs are in {made}\n"
    assert made.exists()


def test_the_settings_of_another_cluster_are_not_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("RECOMMENDER_MODELS=theirs\n")
    monkeypatch.setenv("RECOMMENDER_INTERACTIONS", "theirs")
    settings = demo._Run(Demo(), tmp_path)._settings("127.0.0.1:1")
    default = {name: field.default for name, field in Settings.model_fields.items()}
    own = {"broker": "127.0.0.1:1", "app": "demo", "partitions": 4, "artefact_store": str(tmp_path / "artefacts")}
    own["archive"] = str(tmp_path / "archive")
    assert settings.model_dump() == default | own
