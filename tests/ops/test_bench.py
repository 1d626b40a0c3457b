import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ops.bench import catalogue, quick, recorded
from ops.bench.chart import chart
from ops.bench.command import Bench
from ops.bench.findings import Findings, table
from ops.bench.history import CYCLE, Crowd, Models
from ops.bench.latency import Percentiles, latencies_ms
from ops.program import ProgramFailed
from schemas.placement import partition_of
from schemas.settings import DONE, FAILED, REFUSED, run_command
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


def test_a_ratio_that_falls_below_half_of_the_recorded_one_is_told():
    was = {"a": 4.0, "b": 0.1, "c": 7.0}
    assert recorded.fallen({"a": 2.0, "b": 0.05, "c": 99.0, "new": 0.0}, was) == []
    assert recorded.fallen({"a": 1.99, "b": 0.2}, was) == [
        "a fell to 1.99, below half of the recorded 4",
        "c was recorded as 7 and is not measured any more: record the ratios anew",
    ]


def test_recorded_ratios_are_read_as_they_were_written(tmp_path: Path):
    recorded.write({"latency_1000": 0.123456, "catalogue_57289": 12.0}, tmp_path / "recorded.toml")
    assert recorded.read(tmp_path / "recorded.toml") == {"latency_1000": 0.123, "catalogue_57289": 12.0}


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another record than the repository's, and one bench whose ratio is 3."""
    path = tmp_path / "recorded.toml"
    read, write = recorded.read, recorded.write
    monkeypatch.setattr(recorded, "read", lambda: read(path))
    monkeypatch.setattr(recorded, "write", lambda ratios: write(ratios, path))
    monkeypatch.setattr(quick, "BENCHES", {"catalogue": lambda: Findings("", {}, {"ours": 3.0})})
    return path


@pytest.mark.usefixtures("record")
def test_the_quick_form_fails_where_a_ratio_has_halved(capsys: pytest.CaptureFixture[str]):
    recorded.write({"ours": 6.0})
    assert run_command("ops", Bench, ["--quick"]) == DONE
    recorded.write({"ours": 6.1})
    assert run_command("ops", Bench, ["--quick"]) == FAILED
    assert "ours fell to 3, below half of the recorded 6.1" in capsys.readouterr().out


@pytest.mark.parametrize(("ratios", "status", "runs"), [((2, 3, 9), DONE, 2), ((2, 1, 2, 9), FAILED, 3)])
@pytest.mark.usefixtures("record")
def test_a_ratio_that_halves_once_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, ratios: tuple[float, ...], status: int, runs: int
):
    recorded.write({"ours": 6.0})
    left = list(ratios)
    monkeypatch.setattr(quick, "BENCHES", {"catalogue": lambda: Findings("", {}, {"ours": left.pop(0)})})
    assert run_command("ops", Bench, ["--quick"]) == status
    assert len(ratios) - len(left) == runs


@pytest.mark.usefixtures("record")
def test_what_is_recorded_is_what_was_measured():
    recorded.write({"gone": 1.0, "ours": 9.0})
    assert run_command("ops", Bench, ["--quick", "--record"]) == DONE
    assert recorded.read() == {"ours": 3.0}


@pytest.mark.usefixtures("record")
def test_one_bench_alone_records_and_compares_only_its_own():
    recorded.write({"of_another": 1.0, "ours": 9.0})
    assert run_command("ops", Bench, ["catalogue", "--quick"]) == FAILED
    assert run_command("ops", Bench, ["catalogue", "--quick", "--record"]) == DONE
    assert recorded.read() == {"of_another": 1.0, "ours": 3.0}
    assert run_command("ops", Bench, ["catalogue", "--quick"]) == DONE


def test_a_bench_must_be_named_unless_all_run_quickly(capsys: pytest.CaptureFixture[str]):
    assert run_command("ops", Bench, []) == REFUSED
    assert "--quick" in capsys.readouterr().err


def test_a_crowd_is_of_one_partition_and_of_all_phases():
    crowd = Crowd(200, partition=2, partitions=3, users=2 * CYCLE, name="user")
    assert {partition_of(user.encode(), 3) for user in crowd.users} == {2}
    before = [events for _, events in crowd.events_before()]
    assert sorted(before) == sorted(2 * list(range(200, 200 + CYCLE)))


def test_a_window_is_held_against_the_steps_of_an_event():
    models = Models(step=(10.0, 1.0), windows={200: (298.0, 149.0)})
    assert models.ratios(200) == pytest.approx((10.0, 50.0))


def test_a_chart_is_well_formed_and_shows_every_point():
    drawn = ElementTree.fromstring(chart("<T>", "x", "y", {"a & b": [(10, 1), (100, 5)], "c": [(1000, 0.5)]}))
    circles = [one for one in drawn.iter() if one.tag.endswith("circle")]
    assert len(circles) == 3
    assert float(circles[0].get("cx", 0)) < float(circles[1].get("cx", 0)) < float(circles[2].get("cx", 0))
    assert float(circles[1].get("cy", 0)) < float(circles[0].get("cy", 0))  # more is higher
