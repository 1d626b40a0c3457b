"""A worker that has done its work, what befalls its stores and topics then, and the commands that refusals name."""

import os
import re
import shlex
import shutil
import subprocess
import sys
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
        with WorkerProcess(self.settings, self.directory, data_dir=self.data_dir, **own) as worker:
            wait_until(lambda: is_caught_up(self.settings), "everything committed")
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
        """Run the command that a refusal names."""
        command = re.search(r"`((rm|python) [^`]*)`", refusal)
        assert command, refusal
        program, *arguments = shlex.split(command[1])
        if program == "rm":
            shutil.rmtree(arguments[-1])
            return
        if arguments[2] in ("rebuild", "reset"):
            self.part()
            arguments += [f"--data-dir={self.data_dir}", "--yes"]
        environment = os.environ | self.settings.environment()
        ran = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr

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
