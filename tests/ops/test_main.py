"""The command line as a person meets it."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_failure_is_one_line_and_status_1(tmp_path: Path):
    failed = ops(
        "kafka", "--port", "0", "--data-dir", str(tmp_path), HTTPS_PROXY="http://127.0.0.1:1", M2_REPO=str(tmp_path)
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("python -m ops: Kafka 4.1.0 could not be downloaded from Maven Central")
    assert failed.stderr.count("\n") == 1


def test_a_wrong_setting_is_one_line_and_status_2():
    refused = ops("import", "none.inter")
    assert refused.returncode == 2
    assert refused.stderr == "python -m ops import: none.inter: No such file or directory\n"


def ops(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ops", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
