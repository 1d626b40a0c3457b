import json

import pytest

from ops.bench.command import Bench
from schemas.settings import DONE, run_command


def test_a_recovery_is_timed_beside_a_bare_read_and_a_bare_write(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["recovery", "--users", "2000", "--partitions", "2", "--runs", "1", "--json"]
    assert run_command("ops bench", Bench, options) == DONE
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["states"] == 2000
    assert 3000 < said["bytes"] / said["states"] < 3400
    for side in ("worker", "bare_read", "bare_write"):
        [run] = said[side]
        assert run["states_per_s"] > 0
        assert run["cpu_s"] > 0
        assert run["peak_mib"] > 0
