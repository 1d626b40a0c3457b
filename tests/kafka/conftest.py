"""One real broker for the whole session; every test has its own app and topic names, so none sees another's records."""

from collections.abc import Iterator
from itertools import count

import pytest

from ops.kafka import LocalKafka
from ops.topics import admin, create
from schemas.settings import Settings
from schemas.topics import topics

PARTITIONS = 4

_numbers = count()


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """The session's broker. A test that stops or kills it must start it again, or use one of its own."""
    with LocalKafka() as broker:
        yield broker


@pytest.fixture
def settings(kafka: LocalKafka) -> Settings:
    """Settings that name the broker and topics which no other test uses; the topics do not exist yet."""
    app = f"test-{next(_numbers)}"
    return Settings(
        _env_file=None,
        broker=kafka.bootstrap,
        app=app,
        partitions=PARTITIONS,
        interactions=f"{app}-interactions",
        recommendations=f"{app}-recommendations",
        dead_letters=f"{app}-interactions.dlq",
        models=f"{app}-models",
        items=f"{app}-items",
    )


@pytest.fixture
def created(settings: Settings) -> Settings:
    """The same settings, with their topics created."""
    with admin(settings.broker) as client:
        create(client, topics(settings))
    return settings
