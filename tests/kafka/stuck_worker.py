"""A worker that stands still when it is told to by a signal, and that recovers slowly when it is started as `slow`.

SIGHUP stops its event loop, SIGWINCH its engine from the next round on; neither is a signal of Faust's.
"""

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas.settings import run_command
from stream_app import worker
from stream_app.broker import Record
from stream_app.engine import Engine
from stream_app.kafka_broker import KafkaBroker
from stream_app.settings import WorkerSettings

SLOW = "slow"
BATCH_S = 0.15

_for_ever = threading.Event()
_engine_stops = threading.Event()


class StuckEngine(Engine):
    """Stops in a round."""

    def process(self, batches: Mapping[int, Sequence[Record]]) -> None:
        """A round."""
        if _engine_stops.is_set():
            _for_ever.wait()
        super().process(batches)


class SlowBroker(KafkaBroker):
    """Gives one changelog record after the other."""

    def read_changelog(self, *args: Any) -> Iterator[tuple[int, list[tuple[bytes, bytes | None]]]]:
        """With a pause before each."""
        for end, records in super().read_changelog(*args):
            for number, record in enumerate(records, start=1 - len(records)):
                time.sleep(BATCH_S)
                yield end + number, [record]


class StuckWorker(WorkerSettings):
    """A worker that stands still."""

    def run(self) -> int:
        """Run it."""
        signal.signal(signal.SIGHUP, lambda *_: _for_ever.wait())
        signal.signal(signal.SIGWINCH, lambda *_: _engine_stops.set())
        worker.Engine = StuckEngine  # type: ignore[misc]
        if SLOW in sys.argv:
            worker.KafkaBroker = SlowBroker  # type: ignore[misc]
        return worker.run_worker(self)


if __name__ == "__main__":
    status = run_command("stuck_worker", StuckWorker, [])
    sys.exit(status)
