"""`--processes N`: real workers as children."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from schemas.settings import REFUSED, Settings
from tests.kafka.balance import assert_balanced, is_caught_up
from tests.kafka.stream import publish_model, send_events
from tests.kafka.worker_process import WorkerProcess, wait_until

RUNS = "worker runs"
OWNS = "owns partitions"


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_workers_share_the_work_and_stop_with_their_supervisor(created: Settings, tmp_path: Path) -> None:
    publish_model(created, tmp_path, version=1)
    with WorkerProcess(created, tmp_path, processes=2) as supervisor:
        wait_until(
            lambda: {line["worker"] for line in supervisor.logged(OWNS)} == {"w-0", "w-1"}, "both own partitions"
        )
        send_events(created, 200)
        wait_until(lambda: is_caught_up(created), "everything committed")
        assert supervisor.stop() == 0
        assert {line["status"] for line in supervisor.logged("worker stopped")} == {0}
    assert_balanced(created)


def test_a_killed_worker_is_started_again(created: Settings, tmp_path: Path) -> None:
    with WorkerProcess(created, tmp_path, processes=2) as supervisor:
        supervisor.wait_for(OWNS)
        victim = supervisor.logged(RUNS)[0]
        os.kill(victim["pid"], signal.SIGKILL)
        assert supervisor.wait_for("worker died, it is started again")["child"] == victim["child"]
        assert supervisor.wait_for(RUNS, times=3)["child"] == victim["child"]
        assert supervisor.stop() == 0


def test_no_worker_outlives_a_killed_supervisor(created: Settings, tmp_path: Path) -> None:
    with WorkerProcess(created, tmp_path, processes=2) as supervisor:
        supervisor.wait_for(OWNS)
        pids = [line["pid"] for line in supervisor.logged(RUNS)]
        supervisor.kill()
    wait_until(lambda: all(map(is_gone, pids)), "the workers end")


def test_a_refusal_to_start_stops_everything(settings: Settings, tmp_path: Path) -> None:
    # the topics do not exist
    with WorkerProcess(settings, tmp_path, processes=2) as supervisor:
        assert supervisor.wait() == REFUSED
        assert "python -m ops topics" in supervisor.output
