"""What is read again on a real broker after a fetch that no round took."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Position

from ops.topics import admin
from schemas.settings import Settings
from stream_app.batch_transport import BatchConsumer
from stream_app.host import Host
from stream_app.settings import WorkerSettings
from tests.kafka.stream import send_events

DEADLINE_S = 30.0
COMMITTED = {0: 5, 1: 0}
LOG_STARTS = {2: 7}
READ_FROM = {0: 5, 1: 0, 2: 7, 3: 0}


def prepare(settings: Settings) -> None:
    """Commit offsets for some partitions, and delete the first records of another one."""
    topic = settings.interactions
    group = Consumer({"bootstrap.servers": settings.broker, "group.id": settings.app})
    group.commit(offsets=[Position(topic, *position) for position in COMMITTED.items()], asynchronous=False)
    group.close()
    with admin(settings.broker) as client:
        client.delete_records({TopicPartition(topic, partition): start for partition, start in LOG_STARTS.items()})


async def drop_a_fetch(consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch records of every partition while the group rebalances."""
    next_records = consumer._wait_next_records

    async def rebalance_meanwhile(timeout_s: float) -> tuple[dict[Any, Any], None]:
        fetched: dict[Any, Any] = {}
        while len(fetched) < len(READ_FROM):
            fetched.update((await next_records(timeout_s))[0] or {})
        consumer.app.consumer_generation_id += 1
        return fetched, None

    with monkeypatch.context() as patch:
        patch.setattr(consumer, "_wait_next_records", rebalance_meanwhile)
        assert await consumer._fetch() == []


async def read_from(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """The first offset of each partition that comes after a dropped fetch."""
    consumer: Any = Host(settings)._app.consumer
    topic = settings.interactions

    async def assign() -> None:
        consumer._thread._ensure_consumer().assign([TopicPartition(topic, partition) for partition in READ_FROM])

    first: dict[int, int] = {}
    async with asyncio.timeout(DEADLINE_S), consumer:
        await consumer._thread.call_thread(assign)
        consumer.resume_partitions(consumer.assignment())
        consumer.resume_flow()
        await drop_a_fetch(consumer, monkeypatch)
        send_events(settings, 500)  # so that something comes of every partition, wherever it goes on
        while len(first) < len(READ_FROM):
            for message in await consumer._fetch():
                first.setdefault(message.partition, message.value.records[0].offset)
                consumer.done([message.value])
    return first


def test_what_was_fetched_and_dropped_comes_again_also_before_the_first_commit(
    created: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_events(created, 500)
    prepare(created)
    settings = WorkerSettings(_env_file=None, data_dir=tmp_path, **created.model_dump(exclude={"artefact_store"}))
    assert asyncio.run(read_from(settings, monkeypatch)) == READ_FROM


async def seek_during_rebalance(settings: WorkerSettings) -> tuple[set[int], set[int]]:
    """The partitions that were sought when nothing was assigned, and when two of four were taken away meanwhile."""
    consumer: Any = Host(settings)._app.consumer
    thread, topic = consumer._thread, settings.interactions

    async def lose_partitions() -> set[int]:
        inner = thread._ensure_consumer()
        inner.assign([TopicPartition(topic, partition) for partition in READ_FROM])
        committed = inner.committed

        async def rebalance_meanwhile(tp: TopicPartition) -> int | None:
            inner.assign([TopicPartition(topic, 0), TopicPartition(topic, 1)])
            offset: int | None = await committed(tp)
            return offset

        inner.committed = rebalance_meanwhile
        await thread._seek_to_committed()
        return {tp.partition for tp in inner.assignment() if await inner.position(tp) == READ_FROM[tp.partition]}

    async with asyncio.timeout(DEADLINE_S), consumer:
        nothing = {tp.partition for tp in await thread.seek_to_committed()}
        return nothing, await thread.call_thread(lose_partitions)


def test_a_rebalance_may_take_partitions_away_while_they_are_sought(created: Settings, tmp_path: Path) -> None:
    send_events(created, 500)
    prepare(created)
    settings = WorkerSettings(_env_file=None, data_dir=tmp_path, **created.model_dump(exclude={"artefact_store"}))
    assert asyncio.run(seek_during_rebalance(settings)) == (set(), {0, 1})
