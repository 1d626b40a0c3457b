"""What the host asks of an engine, without a broker."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from faust.types import TP

from schemas.settings import FAILED
from stream_app.batch_transport import Batch
from stream_app.broker import Record
from stream_app.counters import Counters
from stream_app.host import Host
from stream_app.settings import WorkerSettings


class Rounds:
    """An engine that does nothing."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.sizes: list[int] = []  # of rounds, in records

    @property
    def input_positions(self) -> Mapping[int, int]:
        return {}

    def own(self, partitions: Collection[int], begun: Collection[int]) -> int:  # noqa: ARG002
        return len(partitions)

    def process(self, batches: Mapping[int, Sequence[Record]]) -> None:
        self.sizes.append(sum(map(len, batches.values())))

    @property
    def rebasing(self) -> bool:
        return False

    def rebase(self, budget_s: float) -> None:
        pass

    def check_idle(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(WorkerSettings(_env_file=None, data_dir=tmp_path, round_records=5))
    made._engine = Rounds()
    return made


class Stream:
    """What Faust hands to an agent."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.channel = SimpleNamespace(queue=asyncio.Queue())
        for batch in batches:
            self.channel.queue.put_nowait(SimpleNamespace(value=batch))

    async def events(self) -> AsyncIterator[SimpleNamespace]:
        while not self.channel.queue.empty():
            yield self.channel.queue.get_nowait()


@pytest.mark.parametrize(("batch_bytes", "rounds"), [(1 << 10, [5, 5, 2]), (8 << 20, [2] * 6), (1 << 25, [1] * 12)])
def test_a_round_takes_what_queued_up_within_limits(host: Host, batch_bytes: int, rounds: list[int]) -> None:
    record = SimpleNamespace(offset=0, key=b"u", value=b"", timestamp=0)
    generation = host._app.consumer_generation_id
    follows = [None] + [0] * 11
    stream = Stream([Batch(TP("interactions", 0), [record], last, generation, batch_bytes) for last in follows])
    asyncio.run(host._rounds(stream))
    assert cast("Rounds", host._engine).sizes == rounds


def test_records_that_cannot_be_healed_end_the_process(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    undelivered = KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))

    def check_idle() -> None:
        raise undelivered

    monkeypatch.setattr(host._engine, "check_idle", check_idle)
    host._owned = {0}
    with pytest.raises(KafkaException):
        asyncio.run(host._check_idle())
    assert host._app.crash_reason is undelivered


def test_a_commit_that_is_never_answered_does_not_hold_up_the_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_app.host._CONFIRM_S", 0.01)

    async def ends() -> bool:
        host._loop, asked = asyncio.get_running_loop(), asyncio.Event()

        async def confirm(_: TP) -> None:
            asked.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(Host, "_consumer", SimpleNamespace(confirm=confirm))
        confirmed = host._loop.run_in_executor(None, host.confirm, 0)
        await asked.wait()
        await host._app.crash(RuntimeError("the worker fails"))
        return await confirmed

    assert asyncio.run(ends()) is False


ENDLESS = """
import sys, threading
from pathlib import Path
from stream_app import host
from stream_app.settings import WorkerSettings
from tests.stream_app.test_host import Rounds

host._ENDING_S = 1.0
threading.Thread(target=threading.Event().wait).start()
made = host.Host(WorkerSettings(_env_file=None, data_dir=Path(sys.argv[1]), broker="127.0.0.1:1"))
threading.Timer(1.0, made.fail, (RuntimeError("it fails"),)).start()
made.run(Rounds())
"""


def test_a_worker_that_fails_ends_even_if_a_thread_of_it_does_not(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", ENDLESS, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert ended.returncode == FAILED, ended.stderr
    assert "is ended" in ended.stdout + ended.stderr
