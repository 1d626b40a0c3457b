"""Logs without a broker: records as a client gives them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from confluent_kafka import Message

from schemas.event import Event, encode


@dataclass
class Record:
    """What a client gives for a record, as far as it is read."""

    of_key: bytes | None
    of_value: bytes | None
    at: int = 0
    of_partition: int = 0

    def partition(self) -> int:
        return self.of_partition

    def key(self) -> bytes | None:
        return self.of_key

    def value(self) -> bytes | None:
        return self.of_value

    def timestamp(self) -> tuple[int, int]:
        return 1, 777

    def offset(self) -> int:
        return self.at


def event(user: str, item: str, at: int = 0, event_id: str | None = None) -> Record:
    return Record(user.encode(), encode(Event(user, item, 5, event_id=event_id)), at)


def tombstone(user: str, at: int = 0) -> Record:
    return Record(user.encode(), None, at)


def messages(records: Iterable[Record]) -> list[Message]:
    return cast("list[Message]", list(records))
