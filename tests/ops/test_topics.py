"""Topics without a broker."""

import pytest

from ops import topics
from ops.kafka import free_port
from ops.topics import Unreachable, admin


def test_an_unreachable_broker_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(topics, "_TIMEOUT_S", 0.2)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=f"no Kafka answers at {address}"):
        admin(address)
