"""A worker whose rounds fail, before or after they are durable, on an event of the item `boom`."""

import sys
from collections.abc import Mapping, Sequence

from schemas import logs
from schemas.settings import run_command
from stream_app.broker import Record
from stream_app.engine import Engine
from stream_app.host import Host
from stream_app.kafka_broker import KafkaBroker
from stream_app.settings import WorkerSettings


class FailingEngine(Engine):
    """Fails."""

    def process(self, batches: Mapping[int, Sequence[Record]]) -> None:
        """A round."""
        if any(b"boom" in (record.value or b"") for records in batches.values() for record in records):
            raise RuntimeError("boom")
        super().process(batches)


class FailingWorker(WorkerSettings):
    """A worker that fails."""

    def run(self) -> int:
        """Run it."""
        logs.configure(self.log_level, worker=self.worker_id)
        host = Host(self)
        return host.run(FailingEngine(self, KafkaBroker(self), host.confirm))


if __name__ == "__main__":
    sys.exit(run_command("failing_worker", FailingWorker, []))
