"""Programs as child processes."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ops.program import Program
from schemas.settings import Settings

_SHOW = """\
import json
import os
from schemas.settings import Settings
own = [name for name in os.environ if name.upper() == "RECOMMENDER_EMIT"]
print(json.dumps({"settings": Settings().model_dump(mode="json"), "own": own}))
"""


def test_a_child_has_the_given_settings_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "show.py").write_text(_SHOW)
    (tmp_path / ".env").write_text("RECOMMENDER_PARTITIONS=3\nRECOMMENDER_APP=file\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    monkeypatch.setenv("RECOMMENDER_BROKER", "environment:1")
    monkeypatch.setenv("RECOMMENDER_EMIT", "latest")
    monkeypatch.setenv("recommender_emit", "latest")
    monkeypatch.chdir(tmp_path)
    given = Settings.model_construct(broker="given:1", app="demo")
    with Program("show", [], given, tmp_path / "log") as program:
        assert program.result(60) == {"settings": given.model_dump(mode="json"), "own": []}


def test_a_line_that_is_still_being_written_is_no_line_yet(tmp_path: Path) -> None:
    program = Program("stream_app", [], Settings(_env_file=None), tmp_path / "log")
    program.log.write_text('no json\n{"event": "one"}\n{"event": "tw')
    assert list(program.lines()) == [{"event": "one"}]


def test_ctrl_c_while_it_starts_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **options))
        os.kill(os.getpid(), signal.SIGINT)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt), Program("stream_app", [], Settings(_env_file=None), tmp_path / "log"):
        pass
    assert started[0].poll() is not None
