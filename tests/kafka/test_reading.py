"""Reading topics in bulk."""

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.kafka import client_config, end_offsets, read_topic
from schemas.settings import Settings
from tests.kafka.stream import send_events
from training.log.interactions import read_interactions


def test_records_that_expire_while_other_partitions_are_read_are_passed_over(created: Settings) -> None:
    topic = created.interactions
    send_events(created, 400)
    ends = end_offsets(created, topic)
    first, *later = ends
    reading = read_topic(created, topic, ends)
    partition, _ = next(reading)
    assert partition == first
    before = [TopicPartition(topic, other, ends[other] - 1) for other in later]
    client = AdminClient(client_config(created))
    for deleted in client.delete_records(before).values():
        deleted.result()
    rest = [(partition, message.offset()) for partition, messages in reading for message in messages]
    assert [found for found in rest if found[0] != first] == [(other, ends[other] - 1) for other in later]


def test_training_tells_how_much_of_the_log_is_read(created: Settings) -> None:
    send_events(created, 400)
    told: list[float] = []
    assert read_interactions(created, told.append).records == 400
    assert told == sorted(told)
    assert len(told) == created.partitions
    assert told[-1] == 1
