"""Producing many records and knowing that each one arrived."""

from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.kafka import producer_config
from schemas.settings import Settings

_FLUSH_S: Final = 60.0


class Publisher:
    """An idempotent producer that counts what it sent and raises when a record was lost.

    As a context manager it waits at the end for every acknowledgement.

    Args:
        settings: where the cluster is.
        linger_ms: how long a record may wait for others to share its batch: 0 for latency, some for throughput.
    """

    def __init__(self, settings: Settings, linger_ms: float = 0.0) -> None:
        self.sent = 0
        self._failure: KafkaError | None = None
        self._producer = Producer(
            producer_config(settings)
            | {
                "linger.ms": linger_ms,
                # an acknowledgement needs no call, only its absence does
                "delivery.report.only.error": True,
                # what goes wrong is raised
                "log_level": 2,
            }
        )

    def send(self, topic: str, key: str, value: bytes | None) -> None:
        """Hand over a record; it waits while the producer's queue is full.

        Raises:
            KafkaException: an earlier record was lost.
        """
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._delivered)
                break
            except BufferError:
                self.poll(0.1)
        self.sent += 1
        if not self.sent % 1000:
            self.poll(0)

    def poll(self, timeout_s: float) -> None:
        """Serve the client for at most `timeout_s`.

        Raises:
            KafkaException: a record was lost.
        """
        self._producer.poll(timeout_s)
        if self._failure is not None:
            raise KafkaException(self._failure)

    def flush(self, timeout_s: float = _FLUSH_S) -> None:
        """Wait until every record is acknowledged.

        Raises:
            KafkaException: a record was lost.
            TimeoutError: not all were acknowledged within `timeout_s`.
        """
        waiting = self._producer.flush(timeout_s)
        self.poll(0)
        if waiting:
            raise TimeoutError(f"{waiting} records were not acknowledged within {timeout_s:g} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.flush()
        else:
            self._producer.purge()

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error
