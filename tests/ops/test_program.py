"""What a child process is told."""

from pathlib import Path

import pytest

from ops.program import Program
from schemas.settings import Settings

_SHOW = """\
import json
import os
from schemas.settings import Settings
own = [name for name in os.environ if name.upper() == "RECOMMENDER_EMIT"]
print(json.dumps({"settings": Settings().model_dump(), "own": own}))
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
        assert program.result(60) == {"settings": given.model_dump(), "own": []}
