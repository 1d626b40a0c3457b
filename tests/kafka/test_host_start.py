"""How a worker starts, and when it does not."""

from pathlib import Path

from ops.kafka import LocalKafka
from ops.topics import admin, create
from schemas.settings import REFUSED, Settings
from schemas.topics import topics
from tests.kafka.worker_process import WorkerProcess


def test_missing_topics_are_named_with_the_command_that_makes_them(settings: Settings, tmp_path: Path) -> None:
    with WorkerProcess(settings, tmp_path) as worker:
        assert worker.wait() == REFUSED
        (line,) = worker.output.splitlines()
        assert settings.interactions in line
        assert "python -m ops topics" in line


def test_another_partition_count_is_refused_naming_both(created: Settings, tmp_path: Path) -> None:
    with WorkerProcess(created.model_copy(update={"partitions": 5}), tmp_path) as worker:
        assert worker.wait() == REFUSED
        assert "has 4 partitions, the setting says 5" in worker.output


def test_a_worker_waits_for_its_broker(settings: Settings, tmp_path: Path) -> None:
    broker = LocalKafka(tmp_path / "kafka")
    mine = settings.model_copy(update={"broker": broker.bootstrap})
    with broker, admin(mine.broker) as client:
        create(client, topics(mine))
    with WorkerProcess(mine, tmp_path) as worker:
        worker.wait_for("no broker answers, trying again")
        with broker:
            worker.wait_for("owns partitions")
            assert worker.stop() == 0


def test_a_stop_while_the_broker_is_away_does_not_wait_for_it(settings: Settings, tmp_path: Path) -> None:
    broker = LocalKafka(tmp_path / "kafka")
    mine = settings.model_copy(update={"broker": broker.bootstrap})
    with broker, admin(mine.broker) as client:
        create(client, topics(mine))
        worker = WorkerProcess(mine, tmp_path)
        with worker:
            worker.wait_for("owns partitions")
            broker.kill()
            worker.stop(20)


def test_faust_options_pass_through(created: Settings, tmp_path: Path) -> None:
    with WorkerProcess(created, tmp_path, program=("-m", "stream_app", "--", "--no-such-option")) as worker:
        assert worker.wait() == REFUSED
        assert "No such option" in worker.output
