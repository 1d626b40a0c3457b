"""What the host asks of an engine, without a broker."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from stream_app.broker import Record
from stream_app.engine import Counters
from stream_app.host import Host
from stream_app.settings import WorkerSettings


class Rounds:
    """An engine that does nothing."""

    def __init__(self) -> None:
        self.counters = Counters()

    def own(self, partitions: Collection[int]) -> int:
        return len(partitions)

    def process(self, batches: Mapping[int, Sequence[Record]]) -> None:
        pass

    def check_idle(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(WorkerSettings(_env_file=None, data_dir=tmp_path))
    made._engine = Rounds()
    return made


def test_records_that_cannot_be_healed_end_the_process(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    undelivered = KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))

    def check_idle() -> None:
        raise undelivered

    monkeypatch.setattr(host._engine, "check_idle", check_idle)
    host._owned = {0}
    with pytest.raises(KafkaException):
        asyncio.run(host._check_idle())
    assert host._app.crash_reason is undelivered
