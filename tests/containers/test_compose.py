"""The compose file run as it is, but for its profiles, and reached as programs and people reach it: from outside."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

import docker
import pytest
from docker.models.containers import Container

from ops.kafka import free_port
from schemas.settings import Settings
from tests.containers.test_worker import ITEM_IDS, Shop
from tests.kafka.worker_process import wait_until

ROOT = Path(__file__).parents[2]
START_S = 1200  # the first time, images are built and PyTorch is fetched
SERVING_BYTES = 450e6

pytestmark = [pytest.mark.timeout(START_S), pytest.mark.usefixtures("stack")]


class Stack:
    """The services under a name and on ports of their own; its images stay, for the next time."""

    def __init__(self, directory: Path) -> None:
        self.kafka_port, self.console_port, self.prometheus_port = free_port(), free_port(), free_port()
        self._docker = docker.from_env()
        file = directory / "env"
        variables = {
            "KAFKA_PORT": self.kafka_port,
            "CONSOLE_PORT": self.console_port,
            "PROMETHEUS_PORT": self.prometheus_port,
            "IMAGE_TAG": "test",
            "SETTINGS_FILE": file,
            "RECOMMENDER_LIST_FORMAT": "json",
            "RECOMMENDER_SESSION_TIMEOUT_S": 6,
        }
        file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        self._command = [
            "docker",
            "compose",
            "--project-name",
            f"lrurec-test-{uuid4().hex[:8]}",
            "--env-file",
            str(file),
        ]

    def compose(self, *arguments: str) -> str:
        """Run a command of docker compose and return what it printed."""
        done = subprocess.run([*self._command, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-10_000:]
        return done.stdout

    def up(self, workers: int, *options: str) -> None:
        """Bring services up, all if none is named in `options`, and wait until each is healthy."""
        self.compose("up", "--detach", "--wait", "--scale", f"worker={workers}", *options)

    def workers(self) -> list[Container]:
        """The containers of the workers that run."""
        return [self._docker.containers.get(name) for name in self.compose("ps", "--quiet", "worker").split()]

    def are_ready(self) -> bool:
        """Whether every worker answers all events of its partitions."""
        ask = "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready')"
        return all(worker.exec_run(["python", "-c", ask]).exit_code == 0 for worker in self.workers())

    def targets(self) -> list[tuple[str, str]]:
        """Job and health of everything that Prometheus watches."""
        found = get(f"http://127.0.0.1:{self.prometheus_port}/api/v1/targets")["data"]["activeTargets"]
        return sorted((target["labels"]["job"], target["health"]) for target in found)


def get(url: str) -> dict[str, Any]:
    with urlopen(url, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One worker and all that belongs to it."""
    for command in ("version", "compose version"):
        try:
            subprocess.run(["docker", *command.split()], check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError):
            pytest.skip(f"docker {command} does not answer here")
    stack = Stack(tmp_path_factory.mktemp("compose"))
    try:
        stack.up(1, "--build")
        yield stack
    finally:
        print(stack.compose("logs", "--no-color", "--tail", "100"))
        inherited = [mount["Name"] for worker in stack.workers() for mount in worker.attrs["Mounts"]]
        stack.compose("down", "--volumes")  # but for volumes that a replaced container left to its heir
        subprocess.run(["docker", "volume", "rm", "--force", *inherited], capture_output=True)


@pytest.fixture(scope="module")
def shop(stack: Stack) -> Iterator[Shop]:
    """Somebody's own program on this machine, whose events a model has been trained on."""
    shop = Shop(Settings(_env_file=None, broker=f"localhost:{stack.kafka_port}"))
    shop.send(events=1000)
    assert not shop.is_answered()  # all are in Kafka, and there is no model yet
    stack.compose("run", "--rm", "training", "run", "--epochs", "1", "--threads", "1")
    wait_until(stack.are_ready, "a worker that serves the model")
    yield shop
    shop.close()


def test_a_program_outside_gets_a_list_for_every_event(shop: Shop) -> None:
    before = shop.receive()
    shop.send(events=200)
    wait_until(shop.is_answered, "a list for every user's newest event")
    assert shop.receive() - before >= 200
    assert {item["item_id"] for one in shop.lists for item in one["items"]} <= set(ITEM_IDS)


def test_the_console_answers_outside_and_prometheus_sees_every_process(stack: Stack) -> None:
    assert get(f"http://127.0.0.1:{stack.console_port}/health") == {"status": "ok", "broker": "reachable"}
    wait_until(lambda: stack.targets() == [("console", "up"), ("worker", "up")], "both targets up")


def test_lists_go_on_when_one_of_two_workers_is_killed(stack: Stack, shop: Shop) -> None:
    stack.up(2)
    wait_until(stack.are_ready, "two workers that serve")
    wait_until(lambda: stack.targets().count(("worker", "up")) == 2, "both workers scraped")
    killed, _ = stack.workers()
    killed.kill()
    shop.send(events=200)
    wait_until(shop.is_answered, "lists of the other worker", deadline_s=90)
    assert len(stack.workers()) == 1


def test_new_containers_keep_the_names_and_states_of_the_workers(stack: Stack, shop: Shop) -> None:
    def names() -> set[bytes]:
        return {worker.exec_run(["cat", "/data/worker-id"]).output for worker in stack.workers()}

    stack.up(2)
    before, containers = names(), stack.workers()
    stack.up(2, "--force-recreate", "--no-deps", "worker")
    assert not set(containers) & set(stack.workers())
    assert names() == before
    assert len(before) == 2
    shop.send(events=200)
    wait_until(shop.is_answered, "a list for every user's newest event")


@pytest.mark.parametrize("target", ["serving", "operator", "training"])
def test_no_image_runs_as_root(target: str) -> None:
    assert int(python(target, "import os; print(os.getuid())")) >= 1000


def test_the_serving_image_is_small_and_has_a_worker_alone() -> None:
    ask = "from importlib.util import find_spec; print(*(name for name in {} if find_spec(name)))"
    names = ["stream_app", "onnxruntime", "torch", "pyarrow", "training", "ops"]
    assert python("serving", ask.format(names)).split() == ["stream_app", "onnxruntime"]
    size = docker.from_env().images.get("lrurec-stream/serving:test").attrs["Size"]
    print(f"serving image: {size / 1e6:.0f} MB")
    assert size < SERVING_BYTES


def python(target: str, program: str) -> str:
    """What a program prints in an image of ours."""
    command = ["docker", "run", "--rm", "--entrypoint", "python", f"lrurec-stream/{target}:test", "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
