"""What the engine needs of Kafka, so that it can be proved over a log in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

Confirm = Callable[[int], bool]
"""Commits the input position of a partition with this worker's own group generation: False when the group refuses it,
because the partition belongs to another worker by now."""


class Record(NamedTuple):
    """One record of `interactions` as it was fetched."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


class DeadLetter(NamedTuple):
    """A record that could not be read, and why."""

    record: Record
    field: str
    """what was wrong, as `Malformed` names it"""
    reason: str


class Outgoing(NamedTuple):
    """What a round sends to one partition of each output topic."""

    lists: Sequence[tuple[bytes, bytes | None]] = ()
    """user key and list; None removes the user's lists"""
    states: Sequence[tuple[bytes, bytes]] = ()
    """user key and state record, for the changelog"""
    dead_letters: Sequence[DeadLetter] = ()


class Identity(NamedTuple):
    """Which topics a store belongs to; a topic that was made anew has another id."""

    interactions: str
    changelog: str
    partitions: int


class NotOwner(Exception):
    """The group gave the partition to another worker: stop at once, without another write."""


class BrokerAway(Exception):
    """No broker answered for long: trying again later may help."""


class Broker(Protocol):
    """The output topics and the changelog; every method raises when Kafka does not answer for long."""

    def identity(self) -> Identity:
        """The topics as the cluster has them."""

    def send(self, outgoing: Mapping[int, Outgoing]) -> dict[int, list[int]]:
        """Send everything and wait until all of it is acknowledged.

        Returns:
            for each partition, the changelog offsets that its `states` got, -1 where the broker did not tell.

        Raises:
            Exception: something was not delivered.
        """

    def changelog_range(self, partition: int) -> tuple[int, int]:
        """First offset and end offset of the changelog partition.

        Raises:
            BrokerAway: no broker answered.
        """

    def read_changelog(
        self, partition: int, start: int, end: int
    ) -> Iterator[tuple[int, list[tuple[bytes, bytes | None]]]]:
        """Keys and values of the changelog records in start..end-1, in lists, each with the offset after its last."""
