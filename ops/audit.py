"""Nothing lost, nothing applied twice, every event covered: checked from the topics alone.

The audit reads the log in the plainest way, event by event, and holds what the workers left on the changelog and on the
topic of lists against it. It shares no code with the worker but the formats.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas import event, recommendation, state
from schemas.item import item_hash
from schemas.kafka import end_offsets, read_topic
from schemas.malformed import Malformed
from schemas.placement import misplaced
from schemas.recommendation import Recommendation
from schemas.settings import Settings
from schemas.state import CHANGELOG_OWN, RECENT_EVENT_IDS, StateRecord, kept_length


@dataclass(slots=True)
class User:
    """What the log says of a user."""

    partition: int
    last_offset: int = -1
    items: list[int] = field(default_factory=list)
    """hashes of all items since the user was first seen or last forgotten"""
    offsets: list[int] = field(default_factory=list)
    """of the events that count, parallel to `items`"""
    event_ids: list[str] = field(default_factory=list)


class Audit(NamedTuple):
    """What an audit found; all but the first two are errors."""

    events: int
    """valid and unrepeated"""
    users: int
    lost: int
    """events that a user's record lacks"""
    applied_twice: int
    """events that a user's record has too often"""
    uncovered: int
    """events without a list of their user at or after them"""
    wrong_histories: int
    """users whose record has the right number of events and another history"""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.applied_twice or self.uncovered or self.wrong_histories)


def audit(settings: Settings, window: int, covered_from: Mapping[int, int] | None = None) -> Audit:
    """Hold the changelog and the lists against the log, up to the ends of the topics as they are now.

    The workers must be stopped or have caught up, and nothing of the log may have expired: what is still under way, or
    gone from the log, shows as an error. So do records that a worker's `skip_records` left out: as lost.

    Args:
        settings: name the broker and the topics.
        window: the workers' `history_length`.
        covered_from: for each partition the offset from which events must have lists: a worker without a model sends
            none. From the beginning, if omitted.

    Raises:
        KafkaException, TimeoutError: a topic cannot be read.
    """
    return compare(read_users(settings), read_states(settings), read_lists(settings), window, covered_from)


def compare(
    users: Mapping[bytes, User],
    records: Mapping[bytes, StateRecord],
    last_lists: Mapping[bytes, Recommendation],
    window: int,
    covered_from: Mapping[int, int] | None = None,
) -> Audit:
    """Hold records and lists against the users that the log has; see `audit`."""
    lost = applied_twice = uncovered = wrong = 0
    for key, user in users.items():
        record = records.get(key, StateRecord())
        lost += max(0, len(user.items) - record.events)
        applied_twice += max(0, record.events - len(user.items))
        kept = user.items[len(user.items) - kept_length(len(user.items), window) :]
        wrong += record.events == len(user.items) and record.item_hashes().tolist() != kept
        floor = 0 if covered_from is None else covered_from.get(user.partition, 0)
        last = last_lists[key].offset if key in last_lists else -1
        uncovered += sum(floor <= offset and offset > last for offset in user.offsets)
    events = sum(len(user.items) for user in users.values())
    return Audit(events, len(users), lost, applied_twice, uncovered, wrong)


def read_users(settings: Settings, unreadable: set[tuple[int, int]] | None = None) -> dict[bytes, User]:
    """All users by their key, as the topic `interactions` has them.

    Args:
        settings: name the broker and the topic.
        unreadable: receives partition and offset of each record that is a dead letter.
    """
    aside = set() if unreadable is None else unreadable
    users: dict[bytes, User] = {}
    decode = settings.event_codec.decode
    for partition, offset, key, value in _read(settings, settings.interactions):
        try:
            event.decode_key(key)
            decoded = None if value is None else decode(value, key, 0)
        except Malformed:
            aside.add((partition, offset))
            continue
        if misplaced(key, partition, settings.partitions):
            aside.add((partition, offset))
            continue
        if decoded is None:
            users[key] = User(partition, offset)
            continue
        user = users.setdefault(key, User(partition))
        if decoded.event_id is not None:
            if decoded.event_id in user.event_ids[-RECENT_EVENT_IDS:]:
                continue
            user.event_ids.append(decoded.event_id)
        user.last_offset = offset
        user.items.append(item_hash(decoded.item_id))
        user.offsets.append(offset)
    return users


def read_states(settings: Settings) -> dict[bytes, StateRecord]:
    """The users' newest records on the changelog."""
    newest: dict[bytes, bytes] = {}
    for _, _, key, value in _read(settings, settings.changelog):
        if value is None:
            newest.pop(key, None)
        elif not key.startswith(CHANGELOG_OWN):
            newest[key] = value
    return {key: state.decode(value) for key, value in newest.items()}


def read_lists(settings: Settings) -> dict[bytes, Recommendation]:
    """Each user's list with the largest event offset; of several for one event the last counts."""
    last: dict[bytes, Recommendation] = {}
    for _, _, key, value in _read(settings, settings.recommendations):
        if value is not None:
            found = recommendation.decode(value)
            if key not in last or found.offset >= last[key].offset:
                last[key] = found
    return last


def _read(settings: Settings, topic: str) -> Iterator[tuple[int, int, bytes, bytes | None]]:
    """Partition, offset, key and value of every record that a topic has now."""
    for partition, messages in read_topic(settings, topic, end_offsets(settings, topic)):
        for message in messages:
            yield partition, message.offset() or 0, message.key() or b"", message.value()
