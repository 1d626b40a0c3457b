"""Events in from files, and lists out, over a real broker."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from confluent_kafka import Consumer, KafkaException, Message
from kafka.partitioner.default import murmur2

from ops.bulk_import import import_interactions, import_items
from ops.publisher import Publisher
from ops.replay import replay
from ops.titles import read_titles
from ops.topics import admin
from ops.watch import follow
from schemas.event import decode
from schemas.inter_file import Interactions
from schemas.item import Item
from schemas.kafka import consumer_config, read_range, watermarks
from schemas.recommendation import Cause, Recommendation, encode
from schemas.settings import Settings

USERS = ["anna", "bo", "émile", "dora"]
EVENTS = 400


@pytest.fixture
def interactions() -> Interactions:
    numbers = range(EVENTS)
    return Interactions([USERS[i % 4] for i in numbers], [f"item {i}" for i in numbers], np.arange(EVENTS) * 1000)


def test_an_import_puts_every_event_into_its_users_partition_in_order(created: Settings, interactions: Interactions):
    imported = import_interactions(created, interactions)
    assert imported.events == EVENTS
    for partition in range(created.partitions):
        users = {user for user in USERS if (murmur2(user.encode()) & 0x7FFFFFFF) % created.partitions == partition}
        events = [decode(m.value() or b"", m.key(), -1) for m in records(created, created.interactions, partition)]
        assert events == [event for event in interactions.events() if event.user_id in users]


def test_records_are_dated_by_their_producing_not_by_their_event(created: Settings, interactions: Interactions):
    before = time.time_ns() // 1_000_000
    import_interactions(created, interactions)
    times = [m.timestamp()[1] for p in range(created.partitions) for m in records(created, created.interactions, p)]
    assert before <= min(times)
    assert max(times) <= time.time_ns() // 1_000_000


def test_a_replay_never_runs_ahead_of_its_rate(created: Settings, interactions: Interactions):
    before = time.time_ns() // 1_000_000
    replay(created, interactions.part(0, 0.1).events(), rate=100)
    times = [m.timestamp()[1] for p in range(created.partitions) for m in records(created, created.interactions, p)]
    assert len(times) == 40
    # the records' times are whole milliseconds
    assert all(sent >= before + 10 * number - 2 for number, sent in enumerate(sorted(times)))


def test_a_replay_keeps_the_events_own_times(created: Settings, interactions: Interactions):
    replay(created, interactions.events(), rate=100_000)
    assert event_times(created) == interactions.timestamps_ms.tolist()


def test_a_replay_of_now_dates_events_as_they_are_produced(created: Settings, interactions: Interactions):
    before = time.time_ns() // 1_000_000
    replay(created, interactions.events(), rate=100_000, now=True)
    assert before <= min(event_times(created))


def test_a_record_that_the_cluster_refuses_is_an_error(created: Settings):
    topic = f"{created.app}-small"
    spec = {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "1000"}}
    with admin(created.broker) as client:
        client.create_topics({topic: spec}, wait_for_metadata=True)
    with pytest.raises(KafkaException, match="MSG_SIZE_TOO_LARGE"), Publisher(created) as publisher:
        publisher.send(topic, "key", b"x" * 10_000)


def test_the_last_title_of_an_item_counts(created: Settings):
    import_items(created, {"1": Item("Toy Sotry"), "2": Item("Fargo"), "3": Item()})
    import_items(created, {"1": Item("Toy Story")})
    assert read_titles(created) == {"1": "Toy Story", "2": "Fargo"}


def test_following_a_user_shows_this_users_lists_only(created: Settings):
    mine = Recommendation("anna", [("1", 0.5)], 1, Cause.EVENT, 0, 7, 0, None, 1, 0)
    other = mine._replace(user_id="bo")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, follow(created, "anna"))
        deadline = time.monotonic() + 30
        while not first.done() and time.monotonic() < deadline:  # it sees what is sent after it has begun
            with Publisher(created) as publisher:
                publisher.send(created.recommendations, "bo", encode(other))
                publisher.send(created.recommendations, "anna", encode(mine))
        assert first.result(0) == mine


def records(settings: Settings, topic: str, partition: int) -> list[Message]:
    consumer = Consumer(consumer_config(settings))
    low, high = watermarks(consumer, topic, partition)
    consumer.close()
    return [message for messages in read_range(settings, topic, partition, low, high) for message in messages]


def event_times(settings: Settings) -> list[int]:
    """The events' own times, sorted."""
    partitions = range(settings.partitions)
    found = [m for partition in partitions for m in records(settings, settings.interactions, partition)]
    return sorted(decode(message.value() or b"", message.key(), -1).timestamp_ms for message in found)
