"""What queries name, which names there are, and the program that checks both."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families

from ops.console.metrics import Metrics as ConsoleMetrics
from schemas.artefact_store import ArtefactStore
from stream_app.champion import Champion
from stream_app.health import Health
from stream_app.host import Host
from stream_app.metrics import WorkerMetrics
from tests.stream_app.world import Worker, World

ROOT: Final = Path(__file__).parents[2] / "ops"
RULES: Final = [ROOT / "prometheus" / "recording.yml", ROOT / "prometheus" / "alerts.yml"]

_IMAGE: Final = "prom/prometheus:v2.42.0"
_DOCKER_FAILED: Final = 125
_PROMETHEUS: Final = {"up", "ALERTS"}
_PARTS: Final = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
_NO_METRIC: Final = (
    r'"[^"]*"',
    r"\{[^}]*\}",
    r"\[[^\]]*\]",
    r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)",
    r"\boffset\s+\w+",
    r"\b(and|or|unless|bool)\b",
)


def names(query: str) -> set[str]:
    """The metrics that a query names."""
    for pattern in _NO_METRIC:
        query = re.sub(pattern, " ", query)
    return set(re.findall(r"(?<![\w:.])[a-zA-Z_:][\w:]*\b(?!\s*\()", query))


def rule_queries(rules: Path) -> list[str]:
    """The queries of a file of rules, one for each."""
    text = rules.read_text()
    found = re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^ +- (?:alert|record): ", text, re.MULTILINE)) > 0
    return found


def worker_metrics(directory: Path) -> list[Metric]:
    """What a worker registers itself."""
    worker = Worker(World(directory), "a")
    host, engine = Host(worker.settings), worker.engine
    champion = Champion(ArtefactStore(str(directory)), engine.swap)
    return list(WorkerMetrics(host, engine, champion, Health(host, engine, 60), directory).collect())


def samples(metric: Metric) -> set[str]:
    """The names under which a metric is stored."""
    return {metric.name + part for part in _PARTS.get(metric.type, ("",))}


def known(directory: Path) -> set[str]:
    """All names that a query may use."""
    of_console = text_string_to_metric_families(ConsoleMetrics().exposition().decode())
    registered = map(samples, [*worker_metrics(directory), *REGISTRY.collect(), *of_console])
    recorded = re.findall(r"- record: (\S+)", RULES[0].read_text())
    return {*recorded, *_PROMETHEUS}.union(*registered)


def promtool(*arguments: str, directory: Path) -> None:
    """Run promtool in a directory, out of the PATH or in a container, and fail the test if it finds fault."""
    command = [shutil.which("promtool") or "promtool", *arguments]
    if not shutil.which("promtool"):
        if not shutil.which("docker"):
            pytest.skip("neither promtool nor Docker is installed")
        mount = ["--volume", f"{directory}:/rules:ro", "--workdir", "/rules", "--user", str(os.getuid())]
        command = ["docker", "run", "--rm", *mount, "--entrypoint", "promtool", _IMAGE, *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=100)
    if command[0] == "docker" and done.returncode == _DOCKER_FAILED:
        pytest.skip(f"no promtool is installed, and Docker does not run {_IMAGE}: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
