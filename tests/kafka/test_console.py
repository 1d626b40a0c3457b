"""The console over a real broker: what it shows is what the topics have, whatever happens to them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from ops.console.feed import Feed
from ops.console.metrics import Metrics
from ops.console.traffic import Cursor, Traffic
from ops.kafka import LocalKafka
from ops.topics import admin, create
from schemas import event, item
from schemas.event import Event
from schemas.item import Item
from schemas.kafka import end_offsets
from schemas.recommendation import Cause, Recommendation, encode
from schemas.settings import Settings
from schemas.topics import topics
from tests.kafka.stream import send
from tests.kafka.worker_process import wait_until


class Console:
    """A feed and what it fills."""

    def __init__(self, traffic: Traffic, feed: Feed) -> None:
        self.traffic = traffic
        self.feed = feed

    @property
    def now(self) -> dict[str, Any]:
        return self.traffic.update(Cursor())[0]

    @property
    def numbers(self) -> dict[str, Any]:
        numbers: dict[str, Any] = self.now["numbers"]
        return numbers

    def history(self, user_id: str) -> list[str]:
        found = self.traffic.user(user_id) or {"history": []}
        return [event["item_id"] for event in found["history"]]

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        wait_until(holds, f"{what}: {self.now}")


@contextmanager
def following(settings: Settings, read_back: int = 100_000) -> Iterator[Console]:
    traffic = Traffic(Metrics())
    with Feed(settings, traffic, read_back) as feed:
        yield Console(traffic, feed)


def send_events(settings: Settings, user_id: str, *item_ids: str) -> None:
    records = [(user_id, event.encode(Event(user_id, item_id, 1))) for item_id in item_ids]
    send(settings, settings.interactions, *records)


def send_list(settings: Settings, user_id: str, partition: int, offset: int, *item_ids: str) -> None:
    items = [(item_id, 0.5) for item_id in item_ids]
    list_ = Recommendation(user_id, items, 1, Cause.EVENT, partition, offset, 1, None, 1, 1)
    send(settings, settings.recommendations, (user_id, encode(list_)))


def partition_of(settings: Settings) -> int:
    """The only partition that has events."""
    (found,) = [p for p, end in end_offsets(settings, settings.interactions).items() if end]
    return found


def test_it_begins_with_what_the_topics_have_and_goes_on_with_what_comes(created: Settings):
    send_events(created, "anna", "old")
    partition = partition_of(created)
    send_list(created, "anna", partition, 0, "next")
    send(created, created.items, ("old", item.encode(Item("An old one"))))
    with following(created) as console:
        console.wait_for(lambda: console.history("anna") == ["old"], "the history")
        console.wait_for(lambda: console.traffic.recommendations("anna") is not None, "the list")
        console.wait_for(
            lambda: ((console.traffic.user("anna") or {})["history"][0]["title"]) == "An old one", "the title"
        )
        assert console.numbers["foreseeable"] == 0
        send_events(created, "anna", "next")
        send_list(created, "anna", partition, 1, "other")
        console.wait_for(lambda: console.numbers["foreseeable"] == 1, "the hit")
        assert console.numbers["hit_rate"] == 1
        assert console.history("anna") == ["next", "old"]
        assert [row["item_id"] for row in console.now["rows"]] == ["next"]


def test_a_list_that_is_read_before_its_event_waits_for_it(created: Settings):
    with following(created) as console:
        console.wait_for(lambda: console.traffic.broker == "reachable", "the broker")
        send_events(created, "anna", "x")
        console.wait_for(lambda: console.history("anna") == ["x"], "the first event")
        partition = partition_of(created)
        send_list(created, "anna", partition, 1, "early")
        console.wait_for(lambda: len(console.feed._early[partition]) == 1, "the list")
        assert console.traffic.recommendations("anna") is None
        send_events(created, "anna", "y")
        console.wait_for(lambda: console.traffic.recommendations("anna") is not None, "the list after its event")


def test_the_lag_is_what_the_app_has_not_committed(created: Settings):
    send_events(created, "anna", *map(str, range(7)))
    with following(created) as console:
        console.wait_for(lambda: console.numbers["lag"] == 7, "7 without a commit")
        with admin(created.broker) as client:
            client.alter_group_offsets(created.app, offsets_of(created, 5))
        console.wait_for(lambda: console.numbers["lag"] == 2, "2 after a commit")


def test_what_cannot_be_read_is_skipped_and_counted(created: Settings):
    with following(created) as console:
        console.wait_for(lambda: console.traffic.broker == "reachable", "the broker")
        send(created, created.interactions, ("anna", b"\xff"), ("bo", event.encode(Event("anna", "x", 1))))
        send(created, created.recommendations, ("anna", b"{}"))
        send(created, created.items, ("a", b"\xc1"))
        send(created, created.models, ("champion", b"{}"))
        send_events(created, "anna", "good")
        console.wait_for(lambda: console.history("anna") == ["good"], "the good event")
        console.wait_for(lambda: console.numbers["malformed"] == 5, "five bad records")


def test_a_null_event_makes_it_forget_the_user(created: Settings):
    with following(created) as console:
        send_events(created, "anna", "x")
        console.wait_for(lambda: console.history("anna") == ["x"], "the event")
        send(created, created.interactions, ("anna", None))
        console.wait_for(lambda: console.history("anna") == [], "forgotten")


def test_it_reads_back_no_more_than_it_was_told_to(created: Settings):
    send_events(created, "anna", *map(str, range(50)))
    with following(created, read_back=4 * created.partitions) as console:
        console.wait_for(lambda: console.history("anna") == ["49", "48", "47", "46"], "the last four")


def test_it_waits_for_topics_that_are_missing(settings: Settings):
    with following(settings) as console:
        console.wait_for(lambda: console.traffic.broker == "away", "the missing topics")
        assert "Unknown topic" in console.now["broker"]["said"]
        with admin(settings.broker) as client:
            create(client, topics(settings))
        console.wait_for(lambda: console.traffic.broker == "reachable", "the topics")


def test_it_goes_on_after_an_outage_of_the_broker() -> None:
    with LocalKafka() as kafka:
        settings = Settings(_env_file=None, broker=kafka.bootstrap, partitions=1)
        with admin(settings.broker) as client:
            create(client, topics(settings))
        with following(settings) as console:
            send_events(settings, "anna", "before")
            console.wait_for(lambda: console.history("anna") == ["before"], "the event before")
            kafka.kill()
            console.wait_for(lambda: console.traffic.broker == "away", "the outage")
            assert console.numbers["lag"] is None
            kafka.start()
            console.wait_for(lambda: console.traffic.broker == "reachable", "the end of the outage")
            send_events(settings, "anna", "after")
            console.wait_for(lambda: console.history("anna") == ["after", "before"], "the event after")


def offsets_of(settings: Settings, offset: int) -> dict[Any, Any]:
    return {TopicPartition(settings.interactions, partition_of(settings)): OffsetAndMetadata(offset, "", -1)}
