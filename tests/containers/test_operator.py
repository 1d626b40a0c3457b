"""The operator's commands against the public Kafka image."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers.apache_kafka import ApacheKafka


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "small.inter"
    lines = "".join(f"user{n % 7}\titem{n % 11}\t{n}\n" for n in range(1000))
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + lines)
    return path


def test_topics_are_made_once_and_then_only_checked(kafka: ApacheKafka):
    first, second = (ops(kafka, "topics", "--app", "once", "--partitions", "4") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert "created" in first.stdout
    assert "created" not in second.stdout


def test_another_partition_count_is_refused_with_status_2(kafka: ApacheKafka):
    ops(kafka, "topics", "--partitions", "4")
    refused = ops(kafka, "topics", "--partitions", "8")
    assert refused.returncode == 2
    assert "topic interactions has 4 partitions, must have 8" in refused.stderr


def test_an_import_counts_what_was_acknowledged(kafka: ApacheKafka, file: Path):
    ops(kafka, "topics", "--partitions", "4")
    imported = ops(kafka, "import", str(file), "--until", "0.8", "--json")
    assert imported.returncode == 0, imported.stderr
    assert json.loads(imported.stdout.splitlines()[-1])["events"] == 800


def ops(kafka: ApacheKafka, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ops", *arguments, "--broker", kafka.bootstrap]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
