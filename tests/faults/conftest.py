"""One real broker for the whole folder, which may be killed and is started again; every run has its own topics."""

from collections.abc import Iterator

import pytest

from ops.kafka import LocalKafka


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """The folder's broker."""
    with LocalKafka() as broker:
        yield broker
