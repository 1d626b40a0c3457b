"""What the topics must say after any fault: every valid event counted once, covered by a list, and committed."""

from collections import Counter, defaultdict
from functools import cache

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from schemas import event, recommendation, state
from schemas.kafka import read_range
from schemas.malformed import Malformed
from schemas.settings import Settings


def read_topic(settings: Settings, topic: str) -> list[Message]:
    """All records of a topic."""
    reader = _reader(settings.broker, settings.app)
    ranges = {
        partition: reader.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
        for partition in range(settings.partitions)
    }
    return [
        message
        for partition, (start, end) in ranges.items()
        for messages in read_range(settings, topic, partition, start, end)
        for message in messages
    ]


def committed(settings: Settings) -> dict[int, int]:
    """Committed offset by partition, -1001 where there is none."""
    wanted = [TopicPartition(settings.interactions, partition) for partition in range(settings.partitions)]
    return {found.partition: found.offset for found in _reader(settings.broker, settings.app).committed(wanted, 30)}


def ends(settings: Settings) -> dict[int, int]:
    """End offset of `interactions` by partition."""
    reader = _reader(settings.broker, settings.app)
    return {
        partition: reader.get_watermark_offsets(TopicPartition(settings.interactions, partition), timeout=30)[1]
        for partition in range(settings.partitions)
    }


def end_of(settings: Settings, topic: str) -> int:
    """How many offsets a topic has."""
    reader = _reader(settings.broker, settings.app)
    partitions = [TopicPartition(topic, partition) for partition in range(settings.partitions)]
    return sum(reader.get_watermark_offsets(partition, timeout=30)[1] for partition in partitions)


def done(settings: Settings) -> int:
    """How many offsets are committed."""
    try:
        return sum(max(0, offset) for offset in committed(settings).values())
    except KafkaException:
        return 0


def is_caught_up(settings: Settings) -> bool:
    """Whether everything is committed; a broker that just started does not know for a while."""
    try:
        positions = committed(settings)
        return all(positions[partition] == end for partition, end in ends(settings).items() if end)
    except KafkaException:
        return False


def repeated_lists(settings: Settings) -> int:
    """Lists beyond the first of an event."""
    return sum(times - 1 for times in _lists(settings).values())


def assert_balanced(settings: Settings) -> None:
    """Every valid event is counted once in its user's last state record and covered by a list of its user."""
    events: Counter[bytes] = Counter()
    offsets: dict[bytes, list[int]] = defaultdict(list)
    for message in read_topic(settings, settings.interactions):
        key, value = message.key(), message.value()
        try:
            event.decode(value, key, 0)
        except Malformed:
            continue
        events[key] += 1
        offsets[key].append(message.offset())
    counted = {
        message.key(): state.decode(message.value()).events
        for message in read_topic(settings, settings.changelog)
        if message.key() in events  # one record says which topics the changelog belongs to
    }
    assert counted == events, (sum(counted.values()), events.total(), committed(settings), ends(settings))
    newest = {key: max(of_user) for key, of_user in offsets.items()}
    listed: dict[bytes, int] = {}
    for key, offset in _lists(settings):
        listed[key] = max(offset, listed.get(key, -1))
    assert listed == newest
    assert is_caught_up(settings)


@cache
def _reader(broker: str, group: str) -> Consumer:
    # asks for the group's offsets without being a member of it; making one for every question takes longer than asking
    return Consumer({"bootstrap.servers": broker, "group.id": group, "enable.auto.commit": False, "log_level": 0})


def _lists(settings: Settings) -> Counter[tuple[bytes, int]]:
    return Counter(
        (message.key(), recommendation.decode(message.value()).offset)
        for message in read_topic(settings, settings.recommendations)
    )
