"""Real workers on a real broker, broken in many ways: nothing is lost, nothing applied twice, and bugs are found."""

import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from ops.chaos.cluster import Cluster
from ops.chaos.place import topic_settings
from ops.chaos.run import Outcome, run
from ops.chaos.schedule import SESSION_S, Fault, Kind
from ops.kafka import LocalKafka
from schemas.settings import FAILED, Settings

A, B, C = "a", "b", "c"

pytestmark = pytest.mark.timeout(600)  # of a machine with nothing else to do they take a tenth


def outcome_of(
    faults: Iterable[Fault],
    kafka: LocalKafka,
    directory: Path,
    program: str,
    workers: tuple[str, ...] = (A, B),
    calm_s: float = 0.0,
    users: int = 300,
) -> Outcome:
    """A run of these faults, after a while without one."""
    settings = topic_settings(Settings.model_construct(broker=kafka.bootstrap), directory)
    with Cluster(settings, directory, kafka, workers, rate=300, seed=1, users=users, program=program) as cluster:
        cluster.wait(calm_s)
        return run(cluster, faults)


def test_nothing_is_lost_or_applied_twice_whatever_befalls_the_service(kafka: LocalKafka, tmp_path: Path) -> None:
    faults = [
        Fault(Kind.KILL, 1.0, A, 0.0),
        Fault(Kind.BROKER_KILL, 0.5, "", 0.5),
        Fault(Kind.FREEZE, 0.5, B, SESSION_S + 1.5),
        Fault(Kind.WIPE, 1.0, A, 0.0),
        Fault(Kind.REBALANCE, 0.5, B, 2.0),
        Fault(Kind.SWAP, 0.2, "", 0.0),
        Fault(Kind.KILL, 0.7, B, 0.3),
        Fault(Kind.STOP, 0.5, A, 0.0),
    ]
    found = outcome_of(faults, kafka, tmp_path, "tests.faults.tried_worker")
    assert found.findings.clean, found.figures()
    assert [done.fault for done in found.injected] == faults
    assert sum(done.endings for done in found.injected) <= 1, "nobody ends but the zombie, not even with the broker"
    assert found.findings.events > 5_000


def test_workers_join_and_leave_three_at_a_time_and_are_killed_while_they_move_and_recover(
    kafka: LocalKafka, tmp_path: Path
) -> None:
    faults = [
        Fault(Kind.JOIN, 0.5, "", 1.0),
        Fault(Kind.RECOVERY, 0.5, A, 1.5),
        Fault(Kind.STOP, 0.5, B, SESSION_S + 1),
        Fault(Kind.REBALANCE, 0.5, C, 1.0),
        Fault(Kind.ABSENCE, 0.5, A, SESSION_S + 1),
        Fault(Kind.RECOVERY, 0.5, B, 3.0),
    ]
    found = outcome_of(faults, kafka, tmp_path, "stream_app", (A, B, C))
    assert found.findings.clean, found.figures()
    assert [done.fault for done in found.injected] == faults
    assert sum(done.endings for done in found.injected) == 0


def test_two_zombies_at_once_do_no_harm_and_do_not_heal_for_ever(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = topic_settings(Settings.model_construct(broker=kafka.bootstrap), tmp_path)
    program = "tests.faults.tried_worker"
    with Cluster(settings, tmp_path, kafka, (A, B, C), rate=300, seed=2, users=300, program=program) as cluster:
        cluster.wait(2)
        zombies = [cluster.worker(name) for name in (A, B)]
        for blow in (signal.SIGSTOP, signal.SIGCONT):
            for zombie in zombies:
                zombie.process.send(blow)
            cluster.wait(SESSION_S + 2)
        found = run(cluster, [])  # it fails if the changelog grows although no event comes
    assert found.findings.clean, found.figures()
    assert [zombie.endings for zombie in zombies] == [[FAILED], [FAILED]]


def test_a_commit_before_the_acknowledgement_is_found(kafka: LocalKafka, tmp_path: Path) -> None:
    kills = [Fault(Kind.KILL, 1.2, A, 0.0), Fault(Kind.KILL, 1.7, A, 0.0)]
    found = outcome_of(kills, kafka, tmp_path, "tests.faults.planted.commit_first", (A,)).findings
    assert found.lost > 0
    assert not found.clean


def test_a_lost_changelog_write_is_found(kafka: LocalKafka, tmp_path: Path) -> None:
    found = outcome_of([], kafka, tmp_path, "tests.faults.planted.lost_changelog_write", (A,), 3).findings
    assert found.store_differences > 0
    assert found.lost > 0
    assert not found.clean


def test_events_that_are_applied_again_are_found(kafka: LocalKafka, tmp_path: Path) -> None:
    # more than one, for a worker that dies right after a commit has nothing to apply again
    wipes = [Fault(Kind.WIPE, after_s, A, 0.0) for after_s in (1.9, 1.3, 2.2)]
    found = outcome_of(wipes, kafka, tmp_path, "tests.faults.planted.no_offset_check", (A,)).findings
    assert found.applied_twice > 0
    assert found.lost == 0
    assert not found.clean


def test_a_zombie_that_nothing_fences_off_is_found(kafka: LocalKafka, tmp_path: Path) -> None:
    freeze = [Fault(Kind.FREEZE, 3.0, A, SESSION_S + 2)]
    # of many users, so that few have an event soon after that which the zombie took back: it would bring that again
    found = outcome_of(freeze, kafka, tmp_path, "tests.faults.planted.no_fence", users=3_000).findings
    assert found.lost > 0
    assert not found.clean
