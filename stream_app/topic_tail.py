"""A one-partition topic that every worker reads as a whole, and goes on reading, without a group."""

from types import TracebackType
from typing import Final, Self

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from schemas.kafka import TIMEOUT_S, consumer_config
from schemas.settings import Settings

_BATCH: Final = 10_000
_POLL_S: Final = 0.02

_log = structlog.get_logger()


class TopicTail:
    """Reads a topic's only partition from its first record on; a context manager.

    While the broker is gone it gives nothing, and goes on when the broker is back. A topic that was made anew is read
    from its beginning.

    Raises:
        KafkaException: the broker does not answer.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._topic = topic
        self._at_end = False
        # the end is told by the client: the last offset may be a transaction's marker, which is never delivered
        config = {"auto.offset.reset": "earliest", "enable.partition.eof": True}
        self._consumer = Consumer(consumer_config(settings) | config)
        # else the client looks for the partition's leader only half a second later
        self._consumer.list_topics(topic, timeout=TIMEOUT_S)
        self._consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])

    def read_to_end(self) -> list[Message]:
        """Everything that the topic has now; waits for the broker as long as it takes."""
        self._at_end = False
        messages: list[Message] = []
        while not self._at_end:
            messages += self.read(_POLL_S)
        return messages

    def read(self, timeout_s: float) -> list[Message]:
        """What came since the last call; waits at most `timeout_s` for it."""
        messages = []
        for message in self._consumer.consume(_BATCH, timeout_s):
            if (error := message.error()) is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._at_end = True
            else:
                _log.warning("a topic cannot be read, trying again", topic=self._topic, error=error.str())
        return messages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._consumer.close()
