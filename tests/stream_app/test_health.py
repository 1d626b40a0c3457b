"""When a worker stands still and what it waits for, with a clock of the test's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.counters import Stage
from stream_app.health import Health
from stream_app.host import Host
from stream_app.settings import WorkerSettings
from tests.stream_app.tiny_model import TinyModel
from tests.stream_app.world import Worker, World

LIMIT_S = 60.0


class Watched:
    """A worker that does not run, at second 1000."""

    def __init__(self, directory: Path) -> None:
        self.host = Host(WorkerSettings(_env_file=None, data_dir=directory))
        self.engine = Worker(World(directory), "a").engine
        self.engine.stopwatch.since = 0.0
        self.now_s = 1000.0
        self.health = Health(self.host, self.engine, LIMIT_S, clock=lambda: self.now_s)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    watched.engine.close()


def test_a_worker_that_starts_or_rests_goes_on(watched: Watched):
    assert watched.health.stuck() == []
    watched.host.beat_at = watched.now_s - LIMIT_S
    assert watched.health.stuck() == []


def test_an_event_loop_without_a_beat_stands_still(watched: Watched):
    watched.host.beat_at = watched.now_s - 61
    assert watched.health.stuck() == ["the event loop stands still for 61 s"]


@pytest.mark.parametrize("stage", [None, *Stage])
def test_an_engine_that_stays_where_it_is_stands_still_unless_it_waits_for_brokers(
    watched: Watched, stage: Stage | None
):
    watched.host.busy_since = 900.0
    watched.engine.stopwatch.stage, watched.engine.stopwatch.since = stage, 930.0
    at = f", at {stage}" if stage else ""
    assert watched.health.stuck() == (
        [] if stage in (Stage.SEND, Stage.CHECK) else [f"the engine stands still for 70 s{at}"]
    )


def test_every_step_of_a_round_or_a_recovery_is_progress(watched: Watched):
    watched.host.busy_since = 0.0
    watched.engine.stopwatch.stage, watched.engine.stopwatch.since = Stage.STORE, 990.0
    assert watched.health.stuck() == []
    watched.engine.stopwatch.stage, watched.engine.stopwatch.since = Stage.RECOVER, 0.0
    assert len(watched.health.stuck()) == 1
    watched.engine._table._progress.progressed_at = 990.0
    assert watched.health.stuck() == []


def test_a_worker_waits_for_the_group_then_for_its_partitions_and_for_a_model(watched: Watched):
    waits = watched.health.waits_for
    model = "waiting for a model, histories are kept"
    assert waits() == ["waiting for the group to assign partitions", model]
    watched.host._owned = {0, 1}
    assert waits() == ["recovering partitions [0, 1]", model]
    watched.engine.own({0, 1})
    assert waits() == [model]
    watched.engine.swap(TinyModel(1, ["a", "b", "c"]).load())
    assert waits() == []


def test_a_worker_without_partitions_is_ready(watched: Watched):
    watched.host._owned = set()
    watched.engine.swap(TinyModel(1, ["a", "b", "c"]).load())
    assert watched.health.waits_for() == []


def test_a_worker_that_stands_still_is_not_ready(watched: Watched):
    watched.host.beat_at = 0.0
    assert watched.health.stuck()[0] in watched.health.waits_for()
