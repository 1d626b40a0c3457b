"""A worker with a defect: it cannot read events of the item `poison`."""

import sys
from typing import Any

from schemas.event import Event
from schemas.settings import run_command
from stream_app import worker
from stream_app.engine import Engine
from stream_app.settings import WorkerSettings


class FragileEngine(Engine):
    """Fails."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        decode = self._decode

        def fragile(value: bytes, key: bytes | None, timestamp_ms: int) -> Event:
            if b"poison" in value:
                raise ZeroDivisionError("a defect")
            return decode(value, key, timestamp_ms)

        self._decode = fragile


class FragileWorker(WorkerSettings):
    """A worker that fails."""

    def run(self) -> int:
        """Run it."""
        worker.Engine = FragileEngine  # type: ignore[misc]
        return worker.run_worker(self)


if __name__ == "__main__":
    sys.exit(run_command("fragile_worker", FragileWorker, []))
