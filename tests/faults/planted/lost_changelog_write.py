"""A worker with a bug: now and then a state goes to the store and not to the changelog."""

import sys
from collections.abc import Mapping
from itertools import count

from stream_app.__main__ import main
from stream_app.broker import Outgoing
from stream_app.kafka_broker import KafkaBroker
from stream_app.user_table import UserTable

_send, _sends = KafkaBroker.send, count()


def send_less(broker: KafkaBroker, outgoing: Mapping[int, Outgoing]) -> dict[int, list[int]]:
    """All but the last state, every fifth time."""
    if next(_sends) % 5 == 0:
        outgoing = {partition: sent._replace(states=sent.states[:-1]) for partition, sent in outgoing.items()}
    return _send(broker, outgoing)


def store_all(
    table: UserTable, partition: int, records: Mapping[bytes, bytes], offsets: list[int], input_position: int
) -> bool:
    """Whatever the changelog has of it."""
    store = table._stores[partition]
    store.write(records, max(offsets, default=store.changelog_position - 1) + 1, input_position)
    return True


if __name__ == "__main__":
    KafkaBroker.send = send_less  # type: ignore[method-assign]
    UserTable.store = store_all  # type: ignore[method-assign]
    sys.exit(main())
