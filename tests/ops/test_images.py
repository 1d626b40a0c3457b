"""What the images are made of, without building them."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def copied(target: str) -> list[tuple[str, str]]:
    """The sources and destinations that the Dockerfile copies out of the repository into an image."""
    stages: dict[str, list[tuple[str, str]]] = {}
    current = ""
    for line in (ROOT / "ops/images/Dockerfile").read_text().splitlines():
        words = line.split()
        if words[:1] == ["FROM"]:
            current = words[3]
            stages[current] = list(stages.get(words[1], []))
        elif words[:1] == ["COPY"] and not words[1].startswith("--"):
            stages[current] += [(source, words[-1]) for source in words[1:-1]]
    return stages[target]


@pytest.mark.parametrize(
    ("target", "modules"),
    [
        ("serving", "stream_app.__main__, stream_app.supervisor, stream_app.worker"),
        ("operator", "ops.__main__"),
        ("training", "training.__main__"),
    ],
)
def test_an_image_has_every_module_that_its_program_imports(target: str, modules: str, tmp_path: Path):
    for source, destination in copied(target):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / destination)
        else:
            (tmp_path / destination).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, tmp_path / destination)
    # -S: without it the interpreter finds the repository, which is installed where tests run
    environment = {"PYTHONPATH": os.pathsep.join((str(tmp_path), sysconfig.get_path("purelib")))}
    command = [sys.executable, "-S", "-c", f"import {modules}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
