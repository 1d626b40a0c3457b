"""A real worker process under test: started, watched by its log lines, stopped or killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from schemas.settings import Settings

DEADLINE_S = 60.0


def wait_until(holds: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition."""
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


class WorkerProcess:
    """`python -m stream_app` under these settings; a context manager that leaves nothing behind.

    Args:
        settings: name broker and topics.
        directory: of data, artefacts and log.
        program: what to run instead of the worker.
        own: settings of the worker, by their names.
    """

    def __init__(
        self, settings: Settings, directory: Path, program: Sequence[str] = ("-m", "stream_app"), **own: Any
    ) -> None:
        fields = {
            "artefact_store": directory / "artefacts",
            "data_dir": directory / "data",
            "worker_id": "w",
            "session_timeout_s": 6,
            "commit_interval_s": 0.2,
            **own,
        }
        mine = {f"RECOMMENDER_{name.upper()}": str(value) for name, value in fields.items()}
        directory.mkdir(exist_ok=True)
        self._log = directory / f"{fields['worker_id']}-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *program], env=os.environ | settings.environment() | mine, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def output(self) -> str:
        """Everything it printed."""
        return self._log.read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one kind."""
        lines = [json.loads(line) for line in self.output.splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    def wait_for(self, event: str, times: int = 1) -> dict[str, Any]:
        """Wait for a log line and return it."""

        def seen() -> bool:
            assert self._process.poll() is None or len(self.logged(event)) >= times, self.output
            return len(self.logged(event)) >= times

        wait_until(seen, event)
        return self.logged(event)[times - 1]

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for its end and return the exit status."""
        return self._process.wait(timeout_s)

    def stop(self, timeout_s: float = DEADLINE_S) -> int:
        """SIGTERM, and the exit status."""
        self.send(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Any other signal."""
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGCONT)
        self.kill()
        if error is not None:
            print(self.output)
