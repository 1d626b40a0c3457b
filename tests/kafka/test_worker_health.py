"""What a real worker says of itself over HTTP, also while it stands still."""

import signal
import socket
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from prometheus_client.parser import text_string_to_metric_families

from ops.kafka import free_port
from schemas.settings import REFUSED, Settings
from tests.kafka.balance import is_caught_up
from tests.kafka.stream import publish_model, send, send_events
from tests.kafka.stuck_worker import SLOW
from tests.kafka.worker_process import WorkerProcess, wait_until

OWNS = "owns partitions"
OK = (200, "ok\n")
STUCK = ("-m", "tests.kafka.stuck_worker")


class WatchedWorker(WorkerProcess):
    """A worker with an HTTP server."""

    def __init__(
        self, settings: Settings, directory: Path, program: Sequence[str] = ("-m", "stream_app"), **own: Any
    ) -> None:
        self._port = free_port()
        super().__init__(settings, directory, program, web_port=self._port, **own)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 while there is no server."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except URLError:
            return 0, ""

    def says(self, path: str, status: int, *words: str) -> Callable[[], bool]:
        """Whether the answer has this status and these words."""

        def holds() -> bool:
            found, body = self.get(path)
            return found == status and all(word in body for word in words)

        return holds

    def metrics(self) -> dict[str, float]:
        """Samples of this project by name, summed over their labels; of a histogram its count and its sum."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name.startswith("recommender_") and not sample.name.endswith("_bucket"):
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found


def test_a_worker_is_live_at_once_and_ready_with_partitions_and_a_model(created: Settings, tmp_path: Path) -> None:
    with WatchedWorker(created, tmp_path) as worker:
        worker.wait_for(OWNS)
        assert worker.get("/live") == OK
        assert worker.get("/ready") == (503, "waiting for a model, histories are kept\n")
        publish_model(created, tmp_path, version=1)
        wait_until(lambda: worker.get("/ready") == OK, "ready")
        assert worker.get("/elsewhere")[0] == 404
        assert worker.stop() == 0


def test_metrics_count_what_the_worker_did(created: Settings, tmp_path: Path) -> None:
    publish_model(created, tmp_path, version=1)
    with WatchedWorker(created, tmp_path) as worker:
        send_events(created, 300)
        send(created, created.interactions, ("u1", b"\xc1 no event"))
        wait_until(lambda: is_caught_up(created), "everything committed")
        found = worker.metrics()
        assert found["recommender_events_total"] == found["recommender_lists_total"] == 300
        assert found["recommender_event_to_list_seconds_count"] == found["recommender_round_records_sum"] == 301
        assert 'recommender_dead_letters_total{reason="value"} 1.0' in worker.get("/metrics")[1]
        assert found["recommender_model_version"] == found["recommender_swaps_total"] == 1
        assert found["recommender_partitions"] == created.partitions
        assert found["recommender_store_bytes"] > 0
        assert found["recommender_worker_ready"] == 1
        wait_until(lambda: worker.metrics().get("recommender_lag_records") == 0, "no lag")
        send(created, created.models, ("champion", b"no manifest"))
        wait_until(lambda: worker.metrics()["recommender_refused_models_total"] == 1, "a refused model")
        assert {line["serving"] for line in worker.logged("model refused, the one in service goes on")} == {1}
        assert worker.stop() == 0


def test_an_engine_that_stands_still_is_not_live(created: Settings, tmp_path: Path) -> None:
    publish_model(created, tmp_path, version=1)
    with WatchedWorker(created, tmp_path, STUCK, stuck_after_s=2) as worker:
        wait_until(lambda: worker.get("/ready") == OK, "ready")
        worker.send(signal.SIGWINCH)
        send_events(created, 10)
        wait_until(worker.says("/live", 503, "the engine stands still"), "not live")
        assert worker.says("/ready", 503, "the engine stands still")()
        assert worker.metrics()["recommender_worker_live"] == 0


def test_an_event_loop_that_stands_still_is_not_live(created: Settings, tmp_path: Path) -> None:
    with WatchedWorker(created, tmp_path, STUCK, stuck_after_s=2) as worker:
        worker.wait_for(OWNS)
        wait_until(lambda: worker.get("/live") == OK, "live")
        worker.send(signal.SIGHUP)
        wait_until(worker.says("/live", 503, "the event loop stands still"), "not live")


def test_a_slow_recovery_is_live_and_not_ready(created: Settings, tmp_path: Path) -> None:
    publish_model(created, tmp_path, version=1)
    with WatchedWorker(created, tmp_path) as worker:
        send_events(created, 300)
        wait_until(lambda: is_caught_up(created), "everything committed")
        assert worker.stop() == 0
    # some 40 records a partition, with a pause before each: longer than what counts as a standstill
    with WatchedWorker(created, tmp_path, (*STUCK, SLOW), data_dir=tmp_path / "new", stuck_after_s=5) as worker:
        wait_until(worker.says("/ready", 503, "recovering partitions [0, 1, 2, 3]"), "recovering")
        while worker.get("/ready") != OK:
            assert worker.get("/live") == OK
        assert worker.wait_for(OWNS)["seconds"] > 5
        assert worker.metrics()["recommender_recovered_records_total"] == worker.wait_for(OWNS)["recovered"] > 100


def test_a_port_that_is_taken_is_refused_in_one_line(created: Settings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with WorkerProcess(created, tmp_path, web_port=port) as worker:
            assert worker.wait() == REFUSED
            (line,) = worker.output.splitlines()
            assert f"web_port {port}: Address already in use" in line
