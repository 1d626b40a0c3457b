"""The worker against the public Kafka image: events of a program that knows only two topics become lists."""

import json
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from kafka import KafkaConsumer, KafkaProducer
from kafka.producer.future import FutureRecordMetadata

from ops.audit import audit
from ops.topics import admin, create
from schemas.artefact_store import ArtefactStore
from schemas.settings import Settings
from schemas.topics import topics
from tests.containers.apache_kafka import ApacheKafka
from tests.kafka.worker_process import WorkerProcess, wait_until
from training.model.lrurec import LRURec, Shape
from training.release.artefact import build
from training.release.champion import publish

ITEM_IDS = [f"item{number}" for number in range(50)]
USERS, WINDOW = 20, 10
SESSION_S = 6  # of the workers

_apps = (f"shop{number}" for number in count())


@pytest.fixture
def settings(kafka: ApacheKafka, tmp_path: Path) -> Settings:
    """Topics of its own, and a model that is untrained but built, checked and announced like any other."""
    app = next(_apps)
    settings = Settings(
        _env_file=None,
        broker=kafka.bootstrap,
        app=app,
        partitions=4,
        interactions=f"{app}-interactions",
        recommendations=f"{app}-recommendations",
        dead_letters=f"{app}-interactions.dlq",
        models=f"{app}-models",
        items=f"{app}-items",
        artefact_store=str(tmp_path / "artefacts"),
    )
    with admin(settings.broker) as client:
        create(client, topics(settings))
    torch.manual_seed(0)
    artefact = build(LRURec(Shape(len(ITEM_IDS), width=16, units=8)), ITEM_IDS)
    artefact.write(ArtefactStore(settings.artefact_store))
    publish(settings, artefact.manifest)
    return settings


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker that serves the model."""
    with WorkerProcess(settings, tmp_path, list_format="json", history_length=WINDOW) as worker:
        worker.wait_for("model in service")
        worker.wait_for("owns partitions")
        yield worker


class Shop:
    """Somebody's own program: kafka-python, JSON and the names of two topics."""

    def __init__(self, settings: Settings) -> None:
        self._interactions = settings.interactions
        self._producer = KafkaProducer(bootstrap_servers=settings.broker, reconnect_backoff_max_ms=500)
        self._consumer = KafkaConsumer(
            settings.recommendations,
            bootstrap_servers=settings.broker,
            auto_offset_reset="earliest",
            reconnect_backoff_max_ms=500,
        )
        self._numbers = count()
        self._sent: dict[str, FutureRecordMetadata] = {}
        self.lists: list[dict[str, Any]] = []

    def send(self, events: int) -> None:
        """Hand events to the producer, which keeps them until the broker has them."""
        for _ in range(events):
            number = next(self._numbers)
            user_id, item_id = f"user{number % USERS}", ITEM_IDS[number * 7 % len(ITEM_IDS)]
            value = json.dumps({"user_id": user_id, "item_id": item_id}).encode()
            self._sent[user_id] = self._producer.send(self._interactions, key=user_id.encode(), value=value)

    def receive(self) -> int:
        """Take the lists that are there; how many came so far."""
        for records in self._consumer.poll(timeout_ms=100).values():
            self.lists += [json.loads(record.value) for record in records]
        return len(self.lists)

    def is_answered(self) -> bool:
        """Whether every user has a list that counts the user's newest event."""
        self.receive()
        newest = {user_id: sent.get(timeout=60).offset for user_id, sent in self._sent.items()}
        listed = {(one["user_id"], one["event"]["offset"]) for one in self.lists}
        return newest.items() <= listed

    def close(self) -> None:
        """Leave the broker."""
        self._producer.close()
        self._consumer.close()


@pytest.fixture
def shop(settings: Settings) -> Iterator[Shop]:
    """The program, connected."""
    shop = Shop(settings)
    yield shop
    shop.close()


def test_every_event_of_another_program_gets_its_list(worker: WorkerProcess, shop: Shop) -> None:
    shop.send(events=200)
    wait_until(shop.is_answered, "a list for every user's newest event")
    assert len({(one["event"]["partition"], one["event"]["offset"]) for one in shop.lists}) == 200
    for one in shop.lists:
        items = [item["item_id"] for item in one["items"]]
        assert len(set(items)) == 10
        assert set(items) <= set(ITEM_IDS)
    assert worker.stop() == 0


def test_a_broker_killed_in_the_middle_loses_nothing(
    kafka: ApacheKafka, settings: Settings, worker: WorkerProcess, shop: Shop
) -> None:
    shop.send(events=1000)
    wait_until(shop.receive, "the first lists")
    kafka.kill()
    shop.send(events=1000)
    kafka.resume()
    wait_until(shop.is_answered, "a list for every user's newest event")
    assert worker.stop() == 0
    found = audit(settings, WINDOW)
    assert found.clean, found
    assert (found.events, found.users) == (2000, USERS)


def test_a_broker_that_stands_still_for_less_and_for_more_than_a_session_loses_nothing(
    kafka: ApacheKafka, settings: Settings, shop: Shop, tmp_path: Path
) -> None:
    # whom the broker takes for lost ends with status 1, and is started again
    own = {"processes": 2, "list_format": "json", "history_length": WINDOW}
    with WorkerProcess(settings, tmp_path, **own) as workers:
        for seconds in (SESSION_S / 3, SESSION_S + 2):
            shop.send(events=500)
            wait_until(shop.is_answered, "lists")
            kafka.pause()
            shop.send(events=500)
            time.sleep(seconds)
            kafka.unpause()
        wait_until(shop.is_answered, "a list for every user's newest event", deadline_s=120)
        assert workers.stop() == 0
    found = audit(settings, WINDOW)
    assert found.clean, found
    assert (found.events, found.users) == (2000, USERS)
