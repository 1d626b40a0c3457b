"""A worker with a bug: it never asks whether another one wrote to its changelog."""

import sys
import time
from collections.abc import Mapping

from stream_app.__main__ import main
from stream_app.broker import Outgoing
from stream_app.kafka_broker import KafkaBroker
from stream_app.user_table import UserTable

_send = KafkaBroker.send


def send_slowly(broker: KafkaBroker, outgoing: Mapping[int, Outgoing]) -> dict[int, list[int]]:
    """So that a worker is mostly frozen with states in its hands."""
    time.sleep(1)
    return _send(broker, outgoing)


def store_always(
    table: UserTable, partition: int, records: Mapping[bytes, bytes], offsets: list[int], input_position: int
) -> bool:
    """Whoever wrote to the changelog meanwhile."""
    store = table._stores[partition]
    store.write(records, max(offsets, default=store.changelog_position - 1) + 1, input_position)
    return True


if __name__ == "__main__":
    KafkaBroker.send = send_slowly  # type: ignore[method-assign]
    UserTable.store = store_always  # type: ignore[method-assign]
    UserTable.overtaken = lambda *_: False  # type: ignore[method-assign]
    sys.exit(main())
