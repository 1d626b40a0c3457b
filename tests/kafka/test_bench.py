"""Every bench in its small form, end to end; two to three minutes in all."""

import json

import pytest

from ops.bench import quick
from ops.bench.command import Bench
from schemas.settings import DONE, run_command


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", quick.BENCHES)
def test_no_ratio_has_halved_since_it_was_recorded(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = run_command("ops bench", Bench, [name, "--quick", "--json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (status, said["problems"]) == (DONE, [])
    assert said["ratios"]
