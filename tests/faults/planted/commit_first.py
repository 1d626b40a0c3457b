"""A worker with a bug: events are committed before what they cause is acknowledged."""

import asyncio
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from stream_app.__main__ import main
from stream_app.batch_transport import Batch, BatchConsumer
from stream_app.broker import Record
from stream_app.engine import Engine

_current, _process = BatchConsumer.current, Engine.process


def commit_first(consumer: BatchConsumer, batches: Iterable[Batch]) -> list[Batch]:
    """The batches that belong to this generation, as if they were done."""
    current = _current(consumer, batches)
    consumer.done(current)
    consumer.committing = asyncio.ensure_future(consumer.force_commit())  # type: ignore[attr-defined]
    return current


def process_slowly(engine: Engine, batches: Mapping[int, Sequence[Record]]) -> None:
    """A round that has hardly begun when its events are committed."""
    time.sleep(0.5)
    _process(engine, batches)


if __name__ == "__main__":
    BatchConsumer.current = commit_first  # type: ignore[method-assign]
    Engine.process = process_slowly  # type: ignore[method-assign]
    sys.exit(main())
