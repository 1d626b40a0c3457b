import json

import pytest

from ops.bench.command import Bench
from schemas.settings import DONE, run_command


def test_catching_up_is_timed_beside_a_pass_through_and_the_stock_way(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["throughput", "--events", "10000", "--stock-events", "100", "--runs", "1", "--workers", "2", "--json"]
    assert run_command("ops bench", Bench, options) == DONE
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["clean"] is True
    assert said["ratio_to_stock"] == pytest.approx(said["events_per_s"] / said["stock_per_s"], rel=0.02)
    assert 0 < said["stock_per_s"] < said["events_per_s"]
    assert said["pass_through_per_s"] > 0
    assert set(said["others"]) == {"one list per user and round", "2 workers"}
    assert sum(said["stages"].values()) == pytest.approx(1, abs=0.01)
