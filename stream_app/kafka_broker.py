"""The engine's broker on Apache Kafka: one idempotent producer, bulk reads of the changelog."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from schemas import state
from schemas.admission import denied
from schemas.kafka import consumer_config, describe_topics, producer_config, read_range, watermarks
from schemas.settings import Refused, Settings
from schemas.state import CHANGELOG_OWN
from stream_app.broker import BrokerAway, DeadLetter, Identity, Outgoing

_MAX_DEAD_LETTER_BYTES: Final = 512 * 1024
_MAX_DEAD_KEY_BYTES: Final = 1024
"""a broker takes a record of 1 MB by default: what is too large to read must not be too large to put aside"""
_QUEUE_WAIT_S: Final = 0.1
"""while the client's queue is full"""
_READ: Final = 1_000
"""states in a list: more of them are new memory, which costs more time than copying them"""
_DELIVERY_TIMEOUT_S: Final = 300.0
_OnDelivery = Callable[[KafkaError | None, Message], None]


class KafkaBroker:
    """See `stream_app.broker.Broker`. Several threads may use it: partitions recover side by side."""

    def __init__(self, settings: Settings) -> None:
        """Connect lazily: Kafka need not be there yet."""
        self._settings = settings
        self._producer = Producer(producer_config(settings) | {"linger.ms": 0})
        self._watcher = Consumer(consumer_config(settings))
        self._identity: Identity | None = None
        self._sending = threading.Lock()

    def identity(self) -> Identity:
        """The topics as the cluster has them, asked once."""
        if self._identity is None:
            names = self._settings.interactions, self._settings.changelog
            topics = describe_topics(self._settings, list(names))
            interactions, changelog = (topics[name] for name in names)
            self._identity = Identity(interactions.topic_id, changelog.topic_id, interactions.partitions)
        return self._identity

    def send(self, outgoing: Mapping[int, Outgoing]) -> dict[int, list[int]]:
        """Send everything and wait until all of it is acknowledged; the changelog offsets by partition.

        Raises:
            KafkaException: something was not delivered within 5 minutes.
            Refused: the right to write a topic was taken away.
        """
        errors: list[tuple[KafkaError, Message]] = []
        offsets: dict[int, list[int]] = {partition: [] for partition in outgoing}

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                errors.append((error, message))

        def delivered_state(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                errors.append((error, message))
            else:
                partition, offset = message.partition(), message.offset()
                assert partition is not None
                offsets[partition].append(-1 if offset is None else offset)

        with self._sending:
            self._send(outgoing, delivered, delivered_state)
        if errors:
            error, message = errors[0]
            raise denied(KafkaException(error), f"WRITE topic {message.topic()}")
        return offsets

    def changelog_range(self, partition: int) -> tuple[int, int]:
        """First offset and end offset of the changelog partition.

        Raises:
            BrokerAway: no answer within 30 s.
        """
        try:
            return watermarks(self._watcher, self._settings.changelog, partition)
        except KafkaException as error:
            raise BrokerAway(f"{self._settings.changelog}[{partition}]: {error}") from error

    def read_changelog(
        self, partition: int, start: int, end: int
    ) -> Iterator[tuple[int, list[tuple[bytes, bytes | None]]]]:
        """Keys and values of the changelog records in start..end-1, in lists, each with the offset after its last.

        Raises:
            Refused: a record is not a worker's.
        """
        for messages in read_range(self._settings, self._settings.changelog, partition, start, end, _READ):
            pairs = [(m.key() or b"", m.value()) for m in messages]
            for (key, value), message in zip(pairs, messages, strict=True):
                if value is not None and not state.is_whole(value) and not key.startswith(CHANGELOG_OWN):
                    raise Refused(
                        f"{self._settings.changelog}[{partition}] has no state record at offset {message.offset()} but "
                        f"{len(value)} bytes of another program: keep that away from the changelog, then "
                        "`python -m ops reset` or a new RECOMMENDER_APP processes the log again"
                    )
            yield (messages[-1].offset() or 0) + 1, pairs

    def _send(self, outgoing: Mapping[int, Outgoing], delivered: _OnDelivery, delivered_state: _OnDelivery) -> None:
        for partition, sent in outgoing.items():
            self._produce(self._settings.recommendations, partition, sent.lists, delivered)
            self._produce(self._settings.changelog, partition, sent.states, delivered_state)
            for letter in sent.dead_letters:
                self._produce_dead_letter(partition, letter, delivered)
        if self._producer.flush(_DELIVERY_TIMEOUT_S):
            raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))

    def _produce(
        self, topic: str, partition: int, pairs: Sequence[tuple[bytes, bytes | None]], on_delivery: _OnDelivery
    ) -> None:
        messages: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in pairs]
        while messages:
            queued = self._producer.produce_batch(topic, messages, partition=partition, on_delivery=on_delivery)
            if queued == len(messages):
                return
            failed = [(message, error) for message in messages if (error := message.pop("_error", None)) is not None]
            for _, error in failed:
                if error.code() != KafkaError._QUEUE_FULL:
                    raise KafkaException(error)
            messages = [message for message, _ in failed]
            self._producer.poll(_QUEUE_WAIT_S)

    def _produce_dead_letter(self, partition: int, letter: DeadLetter, on_delivery: _OnDelivery) -> None:
        key, value = letter.record.key, letter.record.value
        headers = {
            "reason": letter.reason,
            "topic": self._settings.interactions,
            "partition": str(partition),
            "offset": str(letter.record.offset),
            "timestamp": str(letter.record.timestamp_ms),
            "key_size": str(len(key or b"")),
            "size": str(len(value or b"")),
        }
        while True:
            try:
                self._producer.produce(
                    self._settings.dead_letters,
                    key=key and key[:_MAX_DEAD_KEY_BYTES],
                    value=value and value[:_MAX_DEAD_LETTER_BYTES],
                    partition=partition,
                    headers=list(headers.items()),
                    on_delivery=on_delivery,
                )
            except BufferError:
                self._producer.poll(_QUEUE_WAIT_S)
            else:
                return
