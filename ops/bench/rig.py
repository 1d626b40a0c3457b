"""What a bench runs on: a Kafka of its own, its topics, a model, and events of users who come back as in life."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from ops.kafka import LocalKafka
from ops.publisher import Publisher
from ops.topics import admin, create
from schemas.artefact import Manifest
from schemas.artefact_store import ArtefactStore
from schemas.event import Event, encode
from schemas.settings import Settings
from schemas.topics import topics

if TYPE_CHECKING:
    from training.release.artefact import Artefact

PARTITIONS: Final = 4
USERS: Final = 20_000
CATALOGUE: Final = 3_416
"""items of MovieLens 1M"""
HISTORY_LENGTH: Final = 100


class Rig(NamedTuple):
    """A Kafka with its topics, all of which goes with the context."""

    settings: Settings
    directory: Path
    kafka: LocalKafka

    def app(self, name: str, **changes: object) -> Settings:
        """Settings of another app that reads the same events and writes to topics of its own, made here."""
        own: dict[str, object] = {"app": name, "recommendations": f"{name}-recommendations"}
        settings = self.settings.model_copy(update=own | changes)
        with admin(settings.broker) as client:
            create(client, topics(settings))
        return settings

    def worker_arguments(self, *more: str) -> list[str]:
        """Of a worker's command line: its states lie in the rig, under its app's name."""
        states = str(self.directory / "states")
        return ["--data-dir", states, "--worker-id", "bench", "--history-length", str(HISTORY_LENGTH), *more]


@contextmanager
def running(partitions: int = PARTITIONS) -> Iterator[Rig]:
    """Start it, and end and remove it with the context."""
    with (
        tempfile.TemporaryDirectory(prefix="recommender-bench-") as name,
        LocalKafka(Path(name) / "kafka") as kafka,
    ):
        # not from the environment or a .env file, which are about another cluster
        settings = Settings.model_construct(
            broker=kafka.bootstrap, partitions=partitions, artefact_store=str(Path(name) / "store")
        )
        with admin(settings.broker) as client:
            create(client, topics(settings))
        yield Rig(settings, Path(name), kafka)


def visits(events: int, users: int = USERS, catalogue: int = CATALOGUE, seed: int = 0) -> Iterator[tuple[str, str]]:
    """User and item of each event: some users come often (Zipf), and items are chosen evenly."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, users + 1)
    who = random.choice(users, events, p=weights / weights.sum()).tolist()
    what = random.integers(0, catalogue, events).tolist()
    return ((f"user-{user}", f"item-{item}") for user, item in zip(who, what, strict=True))


def produce(settings: Settings, events: int, users: int = USERS, catalogue: int = CATALOGUE) -> None:
    """Put events on the topic `interactions` and wait for their acknowledgement."""
    now_ms = int(time.time() * 1000)
    with Publisher(settings, linger_ms=20) as publisher:
        for user, item in visits(events, users, catalogue):
            publisher.send(settings.interactions, user, encode(Event(user, item, now_ms)))


def keep_model(settings: Settings, catalogue: int = CATALOGUE) -> Manifest:
    """Put a model of the usual shape in the artefact store, another version at each call."""
    built = _built(catalogue)
    version = time.time_ns() // 1_000_000
    manifest = built.manifest.model_copy(update={"version": version, "path": str(version)})
    ArtefactStore(settings.artefact_store).write(built.files, manifest)
    return manifest


@cache
def _built(catalogue: int) -> "Artefact":
    """Its speed does not depend on what it has learned; an export takes seconds."""
    # imported only now: they load torch
    from training.model.lrurec import LRURec, Shape
    from training.release.artefact import build

    return build(LRURec(Shape(items=catalogue)), [f"item-{item}" for item in range(catalogue)])


def announce(settings: Settings, manifest: Manifest) -> None:
    """Make a kept model the champion."""
    from training.release.champion import publish

    publish(settings, manifest)
