"""Tests that need Docker: a broker from the public image, as it would be deployed. Skipped where no Docker runs."""

from collections.abc import Iterator

import docker
import pytest
from docker.errors import DockerException
from testcontainers.core.network import Network

from tests.containers.apache_kafka import ApacheKafka


@pytest.fixture(scope="package")
def network() -> Iterator[Network]:
    """A network that the containers of these tests share."""
    try:
        docker.from_env().ping()
    except DockerException as error:
        pytest.skip(f"no Docker runs here: {error}")
    with Network() as network:
        yield network


@pytest.fixture(scope="package")
def kafka(network: Network) -> Iterator[ApacheKafka]:
    """The broker of these tests; it goes before the tests of other folders begin."""
    with ApacheKafka(network) as broker:
        yield broker
