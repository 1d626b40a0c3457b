"""The ceiling of every serving figure: a bare client loop that consumes events and produces each one again.

`python -m ops.bench.pass_through` is such a loop as a process of its own, for new events until it is ended.
"""

import logging
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Final

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from ops.program import ProgramFailed
from schemas.kafka import consumer_config, end_offsets, producer_config
from schemas.settings import DONE, Settings

READY: Final = '{"event": "ready"}'
_BATCH: Final = 5_000
_POLL_S: Final = 0.1
_TIMEOUT_S: Final = 300.0


class PassThrough:
    """Reads `interactions` and writes `recommendations`, partition by partition; a round ends with its acknowledgement.

    Args:
        settings: name the broker and the topics.
        starts: offset for each partition to read from.
    """

    def __init__(self, settings: Settings, starts: dict[int, int]) -> None:
        self._topic = settings.recommendations
        self._partitions = list(starts)
        self._failures: list[object] = []
        self._producer = Producer(producer_config(settings) | {"linger.ms": 0, "delivery.report.only.error": True})
        self._consumer = Consumer(consumer_config(settings))
        self._consumer.assign([TopicPartition(settings.interactions, *start) for start in starts.items()])

    def fetch(self) -> Sequence[Message]:
        """What is there, at once; nothing after a tenth of a second without an event."""
        first = self._consumer.poll(_POLL_S)
        messages = [] if first is None else [first, *self._consumer.consume(_BATCH, 0)]
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaException(error)
        return messages

    def send_on(self, messages: Iterable[Message]) -> None:
        """Produce each of them again and wait for all acknowledgements.

        Raises:
            ProgramFailed: one was not acknowledged.
        """
        rounds: dict[int, list[dict[str, bytes | None]]] = {partition: [] for partition in self._partitions}
        for message in messages:
            rounds[message.partition() or 0].append({"key": message.key(), "value": message.value()})
        for partition, batch in rounds.items():
            self._producer.produce_batch(
                self._topic, batch, partition, on_delivery=lambda error, _: self._failures.append(error)
            )
        if self._producer.flush(_TIMEOUT_S) or any(self._failures):
            raise ProgramFailed("the pass-through could not deliver")

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def catch_up(settings: Settings) -> float:
    """Events/s from the log's beginning to its end."""
    ends = end_offsets(settings, settings.interactions)
    loop = PassThrough(settings, dict.fromkeys(ends, 0))
    try:
        left, began = sum(ends.values()), 0.0
        while left > 0:
            messages = loop.fetch()
            began = began or time.perf_counter()
            loop.send_on(messages)
            left -= len(messages)
        return sum(ends.values()) / (time.perf_counter() - began)
    finally:
        loop.close()


def main() -> int:
    """Pass new events through until SIGTERM."""
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    signal.signal(signal.SIGTERM, stop)
    settings = Settings()
    loop = PassThrough(settings, end_offsets(settings, settings.interactions))
    print(READY, flush=True)
    while not stopped:
        if messages := loop.fetch():
            loop.send_on(messages)
    loop.close()
    return DONE


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    sys.exit(main())
