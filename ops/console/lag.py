"""How far the workers are behind the log."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from schemas.kafka import client_config
from schemas.settings import Settings

_TIMEOUT_S: Final = 5.0
_FIRST, _END = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Measured(NamedTuple):
    """The log and the workers' place in it."""

    ends: dict[int, int]
    """end offset of each partition"""
    lag: int
    """events that are in the log and not committed; those that expired unread do not count"""


class Lag:
    """Compares the log of `partitions` with what the app has committed."""

    def __init__(self, settings: Settings, partitions: Iterable[int]) -> None:
        self._settings = settings
        self._partitions = [TopicPartition(settings.interactions, partition) for partition in partitions]
        self._admin = AdminClient(client_config(settings))

    def measure(self) -> Measured:
        """Ask the cluster.

        Raises:
            KafkaException: no answer within 5 s.
        """
        try:
            return self._measure()
        except KafkaException:
            # one that has seen partitions without a leader goes on seeing them so, also when the broker is back
            self._admin = AdminClient(client_config(self._settings))
            raise

    def _measure(self) -> Measured:
        app = self._settings.app
        group = ConsumerGroupTopicPartitions(app, self._partitions)
        answer = self._admin.list_consumer_group_offsets([group], request_timeout=_TIMEOUT_S)[app]
        first, ends = self._offsets(_FIRST), self._offsets(_END)
        # the offset of what was never committed is negative
        committed = {of.partition: of.offset for of in answer.result().topic_partitions}
        return Measured(ends, sum(max(0, ends[p] - max(first[p], committed[p])) for p in ends))

    def _offsets(self, which: OffsetSpec) -> dict[int, int]:
        answers = self._admin.list_offsets(
            dict.fromkeys(self._partitions, which),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_TIMEOUT_S,
        )
        return {of.partition: answer.result().offset for of, answer in answers.items()}
