"""The commands, short."""

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ops.chaos.command import chosen
from ops.chaos.schedule import Kind
from ops.kafka import LocalKafka
from ops.topics import admin
from schemas.settings import FAILED, REFUSED, Refused
from tests.kafka.worker_process import wait_until


def ops(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ops", *arguments], capture_output=True, text=True)


def running_in(directory: Path) -> list[int]:
    """Ids of the processes whose command line names the directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(directory).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def test_faults_of_the_broker_are_for_a_broker_of_our_own():
    assert not any(kind.of_broker for kind in chosen("", local=False))
    assert chosen("", local=True) == list(Kind)
    assert chosen("kill, broker-kill", local=True) == [Kind.KILL, Kind.BROKER_KILL]
    with pytest.raises(Refused, match="--local"):
        chosen("kill,broker-kill", local=False)


def test_an_unknown_fault_is_one_line():
    found = ops("chaos", "--local", "--faults", "kill,earthquake")
    assert found.returncode == REFUSED
    assert found.stderr.count("\n") == 1
    assert "there is no fault 'earthquake', there are kill," in found.stderr


@pytest.mark.timeout(600)
def test_chaos_runs_on_a_cluster_of_the_operator_and_leaves_nothing_there(kafka: LocalKafka, tmp_path: Path):
    with admin(kafka.bootstrap) as client:
        before = set(client.list_topics())
    arguments = ["--count", "2", "--faults", "kill", "--workers", "1", "--rate", "200", "--json"]
    found = ops("chaos", "--broker", kafka.bootstrap, "--directory", str(tmp_path), *arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    figures = json.loads(found.stdout.splitlines()[-1])
    assert figures["faults"] == 2
    assert figures["events"] > 100
    assert {figures[name] for name in ("lost", "applied_twice", "uncovered")} == {0}
    with admin(kafka.bootstrap) as client:
        assert set(client.list_topics()) - before <= {"__consumer_offsets"}


WITH_A_BUG = """
import functools, sys
from ops import __main__
from ops.chaos import command
command.Cluster = functools.partial(command.Cluster, program="tests.faults.planted.lost_changelog_write")
sys.exit(__main__.main())
"""


@pytest.mark.timeout(600)
def test_the_exit_status_says_that_something_was_lost(kafka: LocalKafka, tmp_path: Path):
    command = [sys.executable, "-c", WITH_A_BUG, "chaos", "--broker", kafka.bootstrap, "--directory", str(tmp_path)]
    arguments = ["--count", "1", "--faults", "clock", "--workers", "1", "--rate", "200", "--json"]
    found = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert found.returncode == FAILED, found.stdout + found.stderr
    figures = json.loads(found.stdout.splitlines()[-1])
    assert figures["lost"] > 0
    assert not figures["clean"]


@pytest.mark.timeout(600)
def test_ctrl_c_ends_every_process_and_removes_the_topics(kafka: LocalKafka, tmp_path: Path):
    command = [sys.executable, "-m", "ops", "chaos", "--broker", kafka.bootstrap, "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as chaos:
        wait_until(lambda: len(running_in(tmp_path)) == 3, "the command and two workers run", 300)
        assert chaos.stdout is not None
        app = chaos.stdout.readline().split()[0]
        chaos.send_signal(signal.SIGINT)
        assert chaos.wait(120) == 130
    assert running_in(tmp_path) == []
    with admin(kafka.bootstrap) as client:
        assert not [name for name in client.list_topics() if name.startswith(app)]


@pytest.mark.timeout(600)
def test_a_soak_says_what_it_lost_and_what_memory_it_took(tmp_path: Path):
    arguments = ["--minutes", "0.2", "--every-s", "5", "--rate", "500", "--json"]
    found = ops("soak", "--directory", str(tmp_path), *arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    figures = json.loads(found.stdout.splitlines()[-1])
    assert figures["faults"] >= 1
    assert {figures[name] for name in ("lost", "applied_twice", "uncovered")} == {0}
    assert figures["witness"]["flat"] is None, "too short to say"
    assert figures["witness"]["memory_last_mib"] > 10
