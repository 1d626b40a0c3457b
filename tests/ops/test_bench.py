import json

import numpy as np
import pytest

from ops.bench import catalogue
from ops.bench.command import Bench
from schemas.settings import DONE, FAILED, run_command
from stream_app.ranking import Ranker, make_ranker


def test_a_catalogue_is_timed_beside_its_reference(capsys: pytest.CaptureFixture[str]):
    assert run_command("ops", Bench, ["catalogue", "--items", "300,9000", "--runs", "1", "--json"]) == DONE
    small, large = json.loads(capsys.readouterr().out)["catalogues"]
    assert (small["items"], large["items"], small["wrong"], large["wrong"]) == (300, 9000, 0, 0)
    assert all(one["list_us"] > 0 and one["reference_us"] > 0 and one["ratio"] > 0 for one in (small, large))
    assert large["bytes"] > 9000 * 4 * 64


def test_a_ranker_that_misses_an_item_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def forgetful(embedding, bias) -> Ranker:
        ranker = make_ranker(embedding, bias)
        ranker.set_unavailable(np.arange(50, dtype=np.int32))
        return ranker

    monkeypatch.setattr(catalogue, "make_ranker", forgetful)
    assert run_command("ops", Bench, ["catalogue", "--items", "300", "--runs", "1"]) == FAILED
    assert "LISTS ARE WRONG" in capsys.readouterr().out
