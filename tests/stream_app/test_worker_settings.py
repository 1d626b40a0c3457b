"""The command line of a worker, and what a supervisor hands to its children."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from stream_app.settings import WorkerSettings
from stream_app.supervisor import _child


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "stream_app", *arguments], capture_output=True, text=True, timeout=60)


def test_help_shows_every_setting_with_its_default() -> None:
    shown = run("--help").stdout
    for name, field in WorkerSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert f"RECOMMENDER_{name.upper()}" in shown
        assert field.description


def test_a_wrong_setting_is_one_line_and_status_2() -> None:
    ended = run("--round-records", "none")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "round_records" in line
    assert "none" in line


def test_a_child_gets_all_settings_of_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = WorkerSettings(
        _env_file=None, processes=3, worker_id="w", data_dir=Path("/x"), partitions=5, emit="latest", skip_records="1:2"
    )
    for name, value in _child(mine, 2).environment().items():
        monkeypatch.setenv(name, value)
    assert WorkerSettings(_env_file=None) == mine.model_copy(update={"worker_id": "w-2", "processes": 1})


@pytest.mark.parametrize(("port", "ports"), [(0, [0, 0, 0]), (6066, [6066, 6067, 6068])])
def test_every_child_has_a_web_port_of_its_own(port: int, ports: list[int]) -> None:
    mine = WorkerSettings(_env_file=None, web_port=port)
    assert [_child(mine, number).web_port for number in range(3)] == ports


def test_a_round_spends_steps_on_states_of_the_previous_model() -> None:
    with pytest.raises(ValidationError, match="rebase_steps"):
        WorkerSettings(_env_file=None, rebase_steps=0)


def test_a_worker_listens_for_nobody_unless_told_to_and_then_on_this_machine_alone() -> None:
    settings = WorkerSettings(_env_file=None)
    assert (settings.web_port, settings.web_host) == (0, "127.0.0.1")
