import json

import pytest

from ops.bench.command import Bench
from schemas.settings import DONE, run_command


def test_latencies_are_measured_beside_a_pass_through(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["latency", "--rates", "50", "--seconds", "1", "--runs", "1", "--warm-seconds", "1", "--json"]
    assert run_command("ops bench", Bench, options) == DONE
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    ours = said["rates"]["50"]
    for side in (ours, ours["pass_through"]):
        assert 0 < side["p50_ms"] <= side["p90_ms"] <= side["p99_ms"] <= side["p999_ms"]
    assert "Kafka" in said["machine"]
