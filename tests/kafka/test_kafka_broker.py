import pytest
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from ops.audit import end_offsets
from schemas.kafka import consumer_config
from schemas.settings import Refused, Settings
from schemas.state import CHANGELOG_IDENTITY, StateRecord, encode
from stream_app.broker import DeadLetter, Outgoing, Record
from stream_app.kafka_broker import KafkaBroker


def first(settings: Settings, topic: str, partition: int) -> Message:
    consumer = Consumer(consumer_config(settings))
    consumer.assign([TopicPartition(topic, partition, 0)])
    message = consumer.poll(30)
    consumer.close()
    assert message is not None
    assert message.error() is None
    return message


def test_the_offsets_of_delivered_states_are_those_of_the_changelog(created: Settings):
    broker = KafkaBroker(created)
    states = [(b"u", encode(StateRecord(last_offset=1))), (b"v", encode(StateRecord(last_offset=2)))]
    assert broker.send({1: Outgoing(states=states), 2: Outgoing(lists=[(b"w", b"3")])}) == {1: [0, 1], 2: []}
    assert broker.changelog_range(1) == (0, 2)
    assert list(broker.read_changelog(1, 0, 2)) == [(2, states)]
    assert end_offsets(created, created.recommendations)[2] == 1


@pytest.mark.parametrize("foreign", [b"", b"\x01", b"garbage" * 20, encode(StateRecord()) + b"\0"])
def test_what_another_program_wrote_to_the_changelog_is_refused_with_its_place(created: Settings, foreign: bytes):
    broker = KafkaBroker(created)
    whole = encode(StateRecord())
    broker.send({1: Outgoing(states=[(CHANGELOG_IDENTITY, b"{}"), (b"u", whole), (b"v", foreign), (b"w", whole)])})
    with pytest.raises(Refused, match=rf"{created.changelog}\[1\] has no state record at offset 2 .* ops reset"):
        list(broker.read_changelog(1, 0, 4))


def test_a_record_that_no_broker_takes_ends_the_round_instead_of_being_tried_for_ever(created: Settings):
    with pytest.raises(KafkaException, match="MSG_SIZE_TOO_LARGE"):
        KafkaBroker(created).send({0: Outgoing(lists=[(b"u", bytes(2_000_000))])})


def test_a_dead_letter_fits_into_a_record_whatever_its_key_and_value(created: Settings):
    record = Record(7, bytes(900_000), bytes(900_000), 1_700_000_000_000)
    KafkaBroker(created).send({3: Outgoing(dead_letters=[DeadLetter(record, "value", "too large")])})
    found = first(created, created.dead_letters, 3)
    assert dict(found.headers() or []) == {
        "reason": b"too large",
        "topic": created.interactions.encode(),
        "partition": b"3",
        "offset": b"7",
        "timestamp": b"1700000000000",
        "key_size": b"900000",
        "size": b"900000",
    }
    assert (len(found.key() or b""), len(found.value() or b"")) == (1024, 512 * 1024)
