"""A record that ends the worker each time it comes: it is named, and a setting makes a dead letter of it."""

import re
from pathlib import Path

from schemas import event
from schemas.event import Event
from schemas.settings import FAILED, Settings
from tests.faults.world import World
from tests.kafka.balance import is_caught_up, read_topic
from tests.kafka.stream import send, send_events
from tests.kafka.worker_process import WorkerProcess, wait_until

PROGRAM = ("-m", "tests.faults.fragile_worker")


def test_a_record_that_no_worker_survives_is_named_and_put_aside_by_a_setting(
    settings: Settings, tmp_path: Path
) -> None:
    world = World(settings, tmp_path)
    send_events(settings, 100)
    send(settings, settings.interactions, ("u1", event.encode(Event("u1", "poison", 1))))
    send_events(settings, 100)
    told = set()
    for _ in range(2):
        with WorkerProcess(settings, tmp_path, PROGRAM) as worker:
            assert worker.wait() == FAILED
            told.add(worker.wait_for("the worker fails and ends")["error"])
    [error] = told
    [place] = re.findall(r"record (\d+:\d+) \(partition:offset\) fails: ZeroDivisionError", error)
    assert f"--skip-records {place} makes a dead letter of it" in error
    with WorkerProcess(settings, tmp_path, PROGRAM, skip_records=place) as worker:
        wait_until(lambda: is_caught_up(settings), "everything committed")
        assert worker.stop() == 0
    [letter] = read_topic(settings, settings.dead_letters)
    assert f"{letter.partition()}:{dict(letter.headers() or [])['offset'].decode()}" == place
    audit = world.audit()
    assert (audit.lost, audit.applied_twice, audit.uncovered) == (1, 0, 0)
