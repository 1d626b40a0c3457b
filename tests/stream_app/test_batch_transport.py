"""What a round takes and what is committed, without a broker."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import KafkaError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP

from stream_app.batch_transport import Batch, BatchConsumer, BatchLost, Position
from stream_app.host import Host
from stream_app.settings import WorkerSettings

GENERATION = 3
ZERO, ONE = TP("interactions", 0), TP("interactions", 1)


class Fetched(NamedTuple):
    offset: int
    key: bytes | None = None
    value: bytes | None = None
    timestamp: int = 0
    timestamp_type: int = 0


def batch(tp: TP, first: int, last: int, follows: int | None, generation: int = GENERATION) -> Batch:
    return Batch(tp, [Fetched(offset) for offset in range(first, last + 1)], follows, generation, size=0)


@pytest.fixture
def consumer(tmp_path: Path) -> BatchConsumer:
    app = Host(WorkerSettings(_env_file=None, data_dir=tmp_path))._app
    app.consumer_generation_id = GENERATION
    return app.consumer  # type: ignore[return-value]


def test_batches_of_an_old_generation_are_dropped(consumer: BatchConsumer) -> None:
    old, new = batch(ZERO, 0, 4, None, generation=2), batch(ZERO, 0, 9, None)
    assert consumer.current([old, new]) == [new]


def test_nothing_is_taken_while_the_flow_is_stopped(consumer: BatchConsumer) -> None:
    consumer.stop_flow()
    assert consumer.current([batch(ZERO, 0, 4, None)]) == []


def test_batches_that_continue_each_other_are_taken_whatever_their_offsets(consumer: BatchConsumer) -> None:
    # offsets have gaps: compaction, and the markers of transactions
    batches = [batch(ZERO, 10, 14, None), batch(ONE, 0, 0, None), batch(ZERO, 20, 24, 14)]
    assert consumer.current(batches) == batches


@pytest.mark.parametrize("follows", [None, 4, 6])
def test_a_batch_that_does_not_continue_the_one_before_ends_the_worker(
    consumer: BatchConsumer, follows: int | None
) -> None:
    consumer.current([batch(ZERO, 0, 5, None)])
    with pytest.raises(BatchLost):
        consumer.current([batch(ZERO, 7, 9, follows)])


async def commits(consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch, accepted: bool) -> list[dict[TP, int]]:
    sent: list[dict[TP, int]] = []

    async def commit(offsets: dict[TP, int]) -> bool:
        sent.append(dict(offsets))
        return accepted

    monkeypatch.setattr(consumer, "_commit", commit)
    consumer.done([batch(ZERO, 0, 0, None)])
    await consumer.force_commit()
    await consumer.force_commit()
    consumer.done([batch(ZERO, 5, 9, 0), batch(ONE, 3, 3, None)])
    await consumer.force_commit()
    return sent


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (True, [{ZERO: 1}, {ZERO: 10, ONE: 4}]),
        (False, [{ZERO: 1}, {ZERO: 1}, {ZERO: 10, ONE: 4}]),
    ],
)
def test_what_was_done_is_committed_once_and_again_if_refused(
    consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch, accepted: bool, expected: list[dict[TP, int]]
) -> None:
    assert asyncio.run(commits(consumer, monkeypatch, accepted)) == expected


LARGEST = bytes(1 << 16)


async def fetches(consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch, number: int) -> int:
    """How many fetches of `number` records begin before a round is done."""
    began = 0

    async def next_records(_timeout_s: float) -> tuple[dict[TP, list[Fetched]], None]:
        nonlocal began
        first = began * number
        began += 1
        consumer.fetches_ahead = number >= 500
        return {ZERO: [Fetched(offset, b"u", LARGEST) for offset in range(first, first + number)]}, None

    monkeypatch.setattr(consumer, "_wait_next_records", next_records)
    fetched: list[Batch] = []

    async def fetch() -> None:
        while True:
            fetched.extend(message.value for message in await consumer._fetch())
            await asyncio.sleep(0)

    fetching = asyncio.create_task(fetch())
    await asyncio.sleep(0.1)
    before = began
    consumer.done(fetched)
    await asyncio.sleep(0.1)
    fetching.cancel()
    assert began == 2 * before
    return before


class Client:
    """Which partitions aiokafka may fetch from."""

    def __init__(self) -> None:
        self.tps, self.stopped = {ZERO, ONE}, set[TP]()

    def assignment(self) -> set[TP]:
        return self.tps

    def paused(self) -> set[TP]:
        return self.stopped

    def pause(self, *tps: TP) -> None:
        self.stopped |= set(tps)

    def resume(self, *tps: TP) -> None:
        self.stopped -= set(tps)


@pytest.mark.parametrize(
    ("fetched", "goes_on"),
    [
        ({}, False),
        ({ZERO: [Fetched(0)] * 300, ONE: [Fetched(0)] * 199}, False),
        ({ZERO: [Fetched(0)] * 300, ONE: [Fetched(0)] * 200}, True),
        ({ONE: [Fetched(0, b"user", bytes(1 << 19))]}, True),
        (KafkaError(), False),
    ],
    ids=["none", "few", "many", "large", "error"],
)
def test_aiokafka_goes_on_to_fetch_only_after_many_records(
    consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch, fetched: Any, goes_on: bool
) -> None:
    client, thread = Client(), consumer._new_consumer_thread()
    client.pause(*client.tps)

    async def fetch(*_: Any) -> Any:
        assert not client.stopped
        if isinstance(fetched, Exception):
            raise fetched
        return fetched

    monkeypatch.setattr(AIOKafkaConsumerThread, "_fetch_records", fetch)
    with suppress(KafkaError):
        assert asyncio.run(thread._fetch_records(client, {ZERO, ONE}, 1.0, 5_000)) == fetched
    assert consumer.fetches_ahead == goes_on
    assert client.stopped == (set() if goes_on else client.tps)


def test_what_a_rebalance_overtakes_while_a_gap_is_looked_into_counts_for_nothing(
    consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = [[Fetched(0)], [Fetched(7)]]
    sought: list[bool] = []

    async def next_records(_timeout: float) -> tuple[dict[TP, list[Fetched]], None]:
        return {ZERO: fetched.pop(0)}, None

    async def rebalance(_tps: list[TP]) -> dict[TP, Position]:
        consumer.app.consumer_generation_id = GENERATION + 1
        consumer._new_generation()
        return {ZERO: Position(0, 0, 8)}

    async def seek() -> None:
        sought.append(True)

    monkeypatch.setattr(consumer, "_wait_next_records", next_records)
    monkeypatch.setattr(consumer._thread, "positions", rebalance)
    monkeypatch.setattr(consumer, "perform_seek", seek)

    async def fetch_twice() -> None:
        [message] = await consumer._fetch()
        consumer.done([message.value])
        assert await consumer._fetch() == []

    asyncio.run(fetch_twice())
    assert sought == [True]
    assert not consumer._is_far_ahead()


@pytest.mark.parametrize("records", [1, 499])
def test_fetching_waits_for_the_round_of_a_few_records(
    consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    assert asyncio.run(fetches(consumer, monkeypatch, records)) == 1


@pytest.mark.parametrize(("records", "ahead"), [(500, 3), (1100, 1)])
def test_fetching_waits_for_the_rounds_after_64_mib(
    consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch, records: int, ahead: int
) -> None:
    assert asyncio.run(fetches(consumer, monkeypatch, records)) == ahead
