import pytest

from training.fitting.evaluation import Metrics
from training.fitting.fit import Moment
from training.fitting.progress import ProgressBar, reading_bar


def test_a_terminal_shows_loss_and_recall(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with ProgressBar("fit") as watch:
        watch(Moment(0.25, 3, 5.4321, Metrics(10, 0.125, 0.0625, 0, 0)))
    shown = capsys.readouterr().err
    assert "5.432" in shown
    assert "recall@10 0.1250" in shown
    assert "25%" in shown


def test_a_terminal_shows_how_much_is_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with reading_bar() as tell:
        tell(0.4)
    assert "40%" in capsys.readouterr().err


def test_a_file_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with reading_bar() as tell:
        tell(0.4)
    with ProgressBar("fit") as watch:
        watch(Moment(0.5, 1, 2.0))
    assert capsys.readouterr().err.strip() == ""
