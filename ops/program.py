"""Programs of the project as child processes that never outlive their parent's interest in them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from schemas.settings import Settings

_STOP_S: Final = 30.0
_POLL_S: Final = 0.05


class ProgramFailed(Exception):
    """A program ended with a status that it should not have, or did not do in time what it was started for."""


class Program:
    """A `python -m MODULE` with its output in a file; a context manager that ends it.

    Args:
        module: of the project, e.g. ``stream_app``.
        arguments: of the command line.
        settings: handed on through the environment, instead of those that this process got there.
        log: receives stdout and stderr.
        show: leave stderr on the terminal, for a progress bar.
        patient: give way to everything else on the machine.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        settings: Settings,
        log: Path,
        *,
        show: bool = False,
        patient: bool = False,
    ) -> None:
        self.log = log
        self._name = f"python -m {module}"
        self._command = [*(["nice", "-n", "10"] if patient else []), sys.executable, "-m", module, *arguments]
        self._environment = _without_settings(os.environ) | settings.environment()
        self._show = show
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            with self.log.open("ab") as log, _held(signal.SIGINT, signal.SIGTERM):
                self._process = self._start(log)
        except BaseException:
            if self._process is not None:
                self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return None if self._process is None else self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, which also ends a program that a signal has stopped."""
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM, SIGKILL if it does not end in time; the exit status."""
        assert self._process is not None
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def result(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the end and return the JSON object of the last line.

        Raises:
            ProgramFailed: it failed, or did not end in time.
        """
        assert self._process is not None
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self._name} did not end within {timeout_s:g} s, see {self.log}") from None
        lines = self.log.read_text(errors="replace").splitlines()
        if status:
            raise ProgramFailed("\n".join([f"{self._name} ended with status {status}", *lines[-10:]]))
        result: dict[str, Any] = json.loads(lines[-1])
        return result

    def lines(self) -> Iterator[dict[str, Any]]:
        """The log lines so far that are JSON objects."""
        for line in self.log.read_text(errors="replace").splitlines():
            # a program may be in the middle of its last line
            with suppress(json.JSONDecodeError):
                if line.startswith("{"):
                    yield json.loads(line)

    def await_lines(self, count: int, timeout_s: float, **fields: object) -> None:
        """Wait until `count` log lines have these `fields`.

        Raises:
            ProgramFailed: it ended, or did not say so in time.
        """
        deadline = time.monotonic() + timeout_s
        while sum(all(line.get(name) == wanted for name, wanted in fields.items()) for line in self.lines()) < count:
            if not self.running or time.monotonic() > deadline:
                said = " ".join(map(str, fields.values()))
                raise ProgramFailed(f"{self._name} did not say {said!r} {count} times, see {self.log}")
            time.sleep(_POLL_S)

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=None if self._show else log,
            start_new_session=True,  # Ctrl-C ends this program, which ends its children
        )


@contextmanager
def _held(*numbers: signal.Signals) -> Iterator[None]:
    """Let signals that come meanwhile come at the end: one in the middle of a start would leave a child that nobody
    knows. In the main thread only."""
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def _without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    prefix = Settings.model_config["env_prefix"]
    return {name: value for name, value in environment.items() if not name.upper().startswith(prefix)}
