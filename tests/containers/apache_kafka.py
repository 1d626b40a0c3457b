"""Apache Kafka in a container, with faults."""

import os
import time
from typing import Final

from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from ops.distribution import KAFKA_VERSION
from ops.kafka import free_port

IMAGE: Final = os.environ.get("KAFKA_IMAGE", f"apache/kafka:{KAFKA_VERSION}")

_ALIAS: Final = "kafka"
_INTERNAL_PORT: Final = 29092
_STARTED: Final = "Kafka Server started"
_START_S: Final = 90


class ApacheKafka(DockerContainer):
    """One KRaft node for clients on the host, and under the name ``kafka`` for containers of `network`.

    Its host port is chosen before the start: one that Docker picks changes when a stopped container starts again, and
    the broker advertises it, so a fault test would lose its broker.
    """

    def __init__(self, network: Network | None = None) -> None:
        super().__init__(IMAGE)
        self.port = free_port()
        self.host = DockerClient().host()
        self.with_bind_ports(self.port, self.port)
        if network is not None:
            self.with_network(network).with_network_aliases(_ALIAS)
        inside = _ALIAS if network is not None else "localhost"
        self.with_envs(
            # any KAFKA_* variable drops the image's own server.properties: all that KRaft needs is here
            KAFKA_NODE_ID="1",
            KAFKA_PROCESS_ROLES="broker,controller",
            KAFKA_LISTENERS=f"HOST://:{self.port},INSIDE://:{_INTERNAL_PORT},CONTROLLER://:9093",
            KAFKA_ADVERTISED_LISTENERS=f"HOST://{self.host}:{self.port},INSIDE://{inside}:{_INTERNAL_PORT}",
            KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="HOST:PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
            KAFKA_INTER_BROKER_LISTENER_NAME="INSIDE",
            KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
            KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9093",
            KAFKA_LOG_DIRS="/var/lib/kafka/data",
            KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
            KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
            KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
            KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="4",
            KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
            KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
            KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS="4",
            # a killed broker comes back only when its old registration has run out (9 s by default)
            KAFKA_BROKER_SESSION_TIMEOUT_MS="2000",
            KAFKA_BROKER_HEARTBEAT_INTERVAL_MS="500",
            KAFKA_HEAP_OPTS="-Xmx512M",
        )
        self.waiting_for(LogMessageWaitStrategy(_STARTED).with_startup_timeout(_START_S))

    @property
    def bootstrap(self) -> str:
        """The address for clients on the host."""
        return f"{self.host}:{self.port}"

    @property
    def inside_bootstrap(self) -> str:
        """The address for clients in containers of the same network."""
        return f"{_ALIAS}:{_INTERNAL_PORT}"

    def kill(self) -> None:
        """End the broker as a crash would; `resume` starts it again."""
        self.get_wrapped_container().kill()

    def pause(self) -> None:
        """Freeze the broker: its connections stay, its answers do not come; `unpause` lets it go on."""
        self.get_wrapped_container().pause()

    def unpause(self) -> None:
        """Let a frozen broker go on."""
        self.get_wrapped_container().unpause()

    def resume(self) -> None:
        """Start again after `kill`, with the same data and port, and wait until it is up."""
        container = self.get_wrapped_container()
        starts = container.logs().count(_STARTED.encode())
        container.start()
        deadline = time.monotonic() + _START_S
        while container.logs().count(_STARTED.encode()) == starts:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the broker did not come back within {_START_S} s")
            time.sleep(0.1)
