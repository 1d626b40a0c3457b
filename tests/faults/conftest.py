"""One real broker for the whole folder, which may be killed and is started again; every run has its own topics."""

from collections.abc import Iterator
from itertools import count

import pytest

from ops.kafka import LocalKafka
from ops.topics import admin, create
from schemas.settings import Settings
from schemas.topics import topics

PARTITIONS = 2

_numbers = count()


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """The folder's broker."""
    with LocalKafka() as broker:
        yield broker


@pytest.fixture
def settings(kafka: LocalKafka) -> Settings:
    """Topics of two partitions that no other test uses, created."""
    app = f"fault-{next(_numbers)}"
    made = Settings(
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
    with admin(made) as client:
        create(client, topics(made))
    return made
