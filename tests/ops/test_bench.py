import json

import numpy as np
import pytest

from ops.bench import catalogue
from ops.bench.command import Bench
from ops.bench.findings import table
from ops.bench.latency import Percentiles, latencies_ms
from ops.program import ProgramFailed
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


def test_percentiles_are_latencies_that_were_measured():
    assert Percentiles.of([float(one) for one in range(1000, 0, -1)]) == (500, 900, 990, 999)
    assert Percentiles.of([7.0]) == (7, 7, 7, 7)
    assert Percentiles.of([1.0, 1.0, 100.0]) == (1, 100, 100, 100)


def test_the_median_of_percentiles_is_taken_of_each():
    runs = [Percentiles(1, 9, 10, 40), Percentiles(2, 5, 30, 20), Percentiles(3, 7, 20, 30)]
    assert Percentiles.median(runs) == (2, 7, 20, 30)


def test_latency_counts_from_when_an_event_was_due():
    received = [(10.0, b"4-0"), (10.6, b"4-2"), (10.6, b"4-1"), (11.0, b"4-1")]  # a list may come again
    found = latencies_ms(received, bytes.decode, rate=10, count=3, number=4, began_s=10.0)
    assert found == pytest.approx([0, 500, 400])


def test_an_event_without_an_answer_fails_a_run():
    with pytest.raises(ProgramFailed, match="2 of 3 events have no answer"):
        latencies_ms([(1.0, b"1-0"), (1.0, b"2-1")], bytes.decode, rate=1, count=3, number=1, began_s=0.0)


def test_a_table_has_straight_columns():
    assert table([["", "ms"], ["ours", "1.5"], ["theirs", "10.25"]]) == ("           ms\nours      1.5\ntheirs  10.25")
