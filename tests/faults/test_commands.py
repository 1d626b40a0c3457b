"""The commands, short."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ops.chaos.command import chosen
from ops.chaos.schedule import Kind
from ops.kafka import LocalKafka
from ops.topics import admin
from schemas.settings import REFUSED, Refused


def ops(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ops", *arguments], capture_output=True, text=True)


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
    arguments = ["--minutes", "0.02", "--faults", "kill", "--workers", "1", "--rate", "200", "--json"]
    found = ops("chaos", "--broker", kafka.bootstrap, "--directory", str(tmp_path), *arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    figures = json.loads(found.stdout.splitlines()[-1])
    assert figures["events"] > 100
    assert {figures[name] for name in ("lost", "applied_twice", "uncovered")} == {0}
    with admin(kafka.bootstrap) as client:
        assert set(client.list_topics()) - before <= {"__consumer_offsets"}


@pytest.mark.timeout(600)
def test_a_soak_says_what_it_lost_and_what_memory_it_took(tmp_path: Path):
    arguments = ["--minutes", "0.3", "--every-s", "6", "--rate", "500", "--json"]
    found = ops("soak", "--directory", str(tmp_path), *arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    figures = json.loads(found.stdout.splitlines()[-1])
    assert figures["faults"] >= 1
    assert {figures[name] for name in ("lost", "applied_twice", "uncovered")} == {0}
    assert figures["witness"]["flat"] is None, "too short to say"
    assert figures["witness"]["memory_last_mib"] > 10
