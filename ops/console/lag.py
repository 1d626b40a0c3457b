"""How far the workers are behind the log."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.kafka import consumer_config
from schemas.settings import Settings

_TIMEOUT_S: Final = 5.0


class Measured(NamedTuple):
    """The log and the workers' place in it."""

    ends: dict[int, int]
    """end offset of each partition"""
    lag: int
    """events that are in the log and not committed; those that expired unread do not count"""


class Lag:
    """Compares the log of `partitions` with what the app has committed."""

    def __init__(self, settings: Settings, partitions: Iterable[int]) -> None:
        self._partitions = [TopicPartition(settings.interactions, partition) for partition in partitions]
        # It names the workers' group to ask for its offsets, and never joins. An AdminClient ends the process with a
        # segmentation fault when another one is made while an answer to it is outstanding (confluent-kafka 2.16).
        self._consumer = Consumer(consumer_config(settings) | {"group.id": settings.app})

    def measure(self) -> Measured:
        """Ask the cluster.

        Raises:
            KafkaException: no answer within 5 s.
        """
        committed = {}  # the offset of what was never committed is negative
        for of in self._consumer.committed(self._partitions, _TIMEOUT_S):
            if of.error is not None:
                raise KafkaException(of.error)
            committed[of.partition] = of.offset
        marks = {of.partition: self._consumer.get_watermark_offsets(of, _TIMEOUT_S) for of in self._partitions}
        ends = {partition: end for partition, (_, end) in marks.items()}
        return Measured(ends, sum(max(0, end - max(first, committed[p])) for p, (first, end) in marks.items()))
