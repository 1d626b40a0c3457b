"""A worker that has done its work, what befalls its stores and topics then, and the commands that refusals name."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka.admin import MemberToRemove

from ops.audit import Audit, audit
from ops.topics import admin
from schemas.settings import REFUSED, Settings
from tests.kafka.balance import is_caught_up
from tests.kafka.stream import publish_model, send_events
from tests.kafka.worker_process import WorkerProcess, wait_until

EVENTS = 200
WINDOW = 100


class World:
    """One app with its topics, a model, and a worker named w that is started and stopped."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.directory = directory
        self.data_dir = directory / "data"
        publish_model(settings, directory, version=1)

    @property
    def stores(self) -> Path:
        """Directory of the worker's stores, one folder a partition."""
        return self.data_dir / self.settings.app / "w"

    @contextmanager
    def working(self, events: int = EVENTS, **own: Any) -> Iterator[WorkerProcess]:
        """A worker that has done some events more, and that must be ended within."""
        send_events(self.settings, events)
        began = time.monotonic()
        with WorkerProcess(self.settings, self.directory, data_dir=self.data_dir, **own) as worker:
            wait_until(lambda: is_caught_up(self.settings), "everything committed")
            print(f"from the start until everything was committed: {time.monotonic() - began:.1f} s")
            yield worker

    def work(self, events: int = EVENTS, **own: Any) -> None:
        """Let a worker start, do some events more and stop."""
        with self.working(events, **own) as worker:
            assert worker.stop() == 0

    def refusal(self, **own: Any) -> str:
        """What a worker says that refuses to start: one line, without a stack."""
        with WorkerProcess(self.settings, self.directory, data_dir=self.data_dir, **own) as worker:
            assert worker.wait() == REFUSED, worker.output
            lines = [line for line in worker.output.splitlines() if not line.startswith("{")]
            assert "Traceback" not in worker.output
            assert "exc_type" not in worker.output
        (line,) = lines
        return line.removeprefix("python -m stream_app: ")

    def obey(self, refusal: str) -> None:
        """Run the commands that a refusal names, one after the other, until one does it."""
        commands = re.findall(r"`((?:rm|python) [^`]*)`", refusal)
        assert commands, refusal
        failures = []
        for command in commands:
            if not (failure := self._fails(shlex.split(command))):
                return
            failures.append(failure)
        raise AssertionError(f"nothing that is named helps: {refusal}: {failures}")

    def _fails(self, command: list[str]) -> str:
        """Why a command fails; empty if it does not."""
        program, *arguments = command
        if program == "rm":
            shutil.rmtree(arguments[-1])
            return ""
        if arguments[2] in ("rebuild", "reset"):
            self.part()
            arguments.append(f"--data-dir={self.data_dir}")
        if arguments[2] == "reset":
            arguments.append("--yes")
        environment = os.environ | self.settings.environment()
        ran = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
        return ran.stderr if ran.returncode else ""

    def part(self) -> None:
        """Let the group forget its member at once, not when the session is over."""
        with admin(self.settings) as client:
            client.remove_group_members(self.settings.app, [MemberToRemove(group_instance_id="w")])

    def audit(self) -> Audit:
        """What the topics say."""
        return audit(self.settings, WINDOW)

    def lose_stores(self) -> None:
        """Another disk."""
        shutil.rmtree(self.stores)
