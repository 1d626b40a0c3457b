"""The topic of dead letters: what could not be read, and which of it was sent again since.

A letter that `python -m ops dlq retry` has sent again leaves a receipt on the same topic, a record without key and
value whose header `retried` names the letter. Letter and receipt are told apart by their headers.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final, NamedTuple

from confluent_kafka import Message

from schemas.kafka import end_offsets, read_topic
from schemas.settings import Settings

RETRIED: Final = "retried"
"""header of a receipt: the `identity` of the letter that was sent again"""


class Letter(NamedTuple):
    """A dead letter."""

    topic: str
    """where it came from, with `partition` and `offset`"""
    partition: int
    offset: int
    reason: str
    at_ms: int
    """when it was dead-lettered, UTC"""
    record_ms: int
    """the time of the record that it was, UTC"""
    key: bytes | None
    value: bytes | None
    """as received, or the first bytes of it"""
    key_size: int
    size: int
    """bytes of the value before it was cut"""
    stored: int
    """bytes of the value that the topic has"""
    place: tuple[int, int]
    """partition and offset on the topic of dead letters"""
    identity: str
    """names the record it came from: a worker that reads a record again dead-letters it again"""

    @property
    def origin(self) -> str:
        """Partition and offset it came from."""
        return f"{self.partition}:{self.offset}"

    @property
    def field(self) -> str:
        """What was wrong."""
        return self.reason.partition(":")[0]

    @property
    def rule(self) -> str:
        """What would have been right."""
        return self.reason.partition(": ")[2].partition(", got ")[0] or self.reason

    @property
    def is_cut(self) -> bool:
        """Whether the topic lacks a part of the value."""
        return self.stored < self.size


class DeadLetters(NamedTuple):
    """What the topic has."""

    letters: list[Letter]
    """each record's newest, oldest first"""
    retried: frozenset[str]
    """identities of those that were sent again"""
    foreign: int
    """records that no worker wrote"""


def read(settings: Settings, keep_bytes: int) -> DeadLetters:
    """The topic as it is now, of each value the first `keep_bytes`.

    Raises:
        KafkaException: the cluster cannot be reached, or the topic does not exist.
        TimeoutError: no progress for 30 s.
    """
    topic = settings.dead_letters
    return gather(
        (m for _, batch in read_topic(settings, topic, end_offsets(settings, topic)) for m in batch), keep_bytes
    )


def gather(messages: Iterable[Message], keep_bytes: int) -> DeadLetters:
    """Sort out the records of the topic."""
    letters: dict[str, Letter] = {}
    retried: set[str] = set()
    foreign = 0
    for message in messages:
        received = dict(message.headers() or ())
        headers = {name: text.decode(errors="replace") for name, text in received.items() if isinstance(text, bytes)}
        if RETRIED in headers:
            retried.add(headers[RETRIED])
        elif letter := _letter(message, headers, keep_bytes):
            letters[letter.identity] = letter
        else:
            foreign += 1
    return DeadLetters(sorted(letters.values(), key=lambda letter: letter.at_ms), frozenset(retried), foreign)


def _letter(message: Message, headers: Mapping[str, str], keep_bytes: int) -> Letter | None:
    key, value = message.key(), message.value()
    try:
        topic, partition, offset = headers["topic"], int(headers["partition"]), int(headers["offset"])
        reason, key_size, size = headers["reason"], int(headers["key_size"]), int(headers["size"])
        record_ms = int(headers["timestamp"])
    except (KeyError, ValueError):
        return None
    digest = blake2b(repr((key, value)).encode(), digest_size=8).hexdigest()  # offsets begin anew in a topic made anew
    return Letter(
        topic,
        partition,
        offset,
        reason,
        message.timestamp()[1],
        record_ms,
        key,
        value and value[:keep_bytes],
        key_size,
        size,
        len(value or b""),
        (message.partition() or 0, message.offset() or 0),
        f"{topic}:{partition}:{offset}:{digest}",
    )
