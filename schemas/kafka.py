"""How every process talks to Kafka: client settings, topic descriptions, and reading a range of a partition in bulk."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.cluster import Cluster
from schemas.settings import Settings

TIMEOUT_S: Final = 30.0
_RETRY_S: Final = 0.2


class TopicDescription(NamedTuple):
    """A topic as the cluster has it; a topic that was deleted and made again has another id."""

    topic_id: str
    partitions: int


def client_config(settings: Cluster) -> dict[str, Any]:
    """What every confluent-kafka client needs to get into the cluster."""
    # what goes wrong is raised; the library's own lines on stderr, 20 a second in an outage, would say it again
    config = {"bootstrap.servers": settings.broker, "reconnect.backoff.max.ms": 1000, "log_level": 2}
    config["security.protocol"] = settings.security_protocol
    if settings.has_password:
        config["sasl.mechanism"] = settings.sasl_mechanism
        config["sasl.username"] = settings.sasl_username
        config["sasl.password"] = settings.password
    if settings.has_tls:
        config["ssl.endpoint.identification.algorithm"] = "https" if settings.ssl_check_hostname else "none"
        files = {
            "ssl.ca.location": settings.ssl_ca_file,
            "ssl.certificate.location": settings.ssl_certificate_file,
            "ssl.key.location": settings.ssl_key_file,
            "ssl.key.password": settings.key_password,
        }
        config |= {name: given for name, given in files.items() if given}
    return config


def python_client_config(settings: Cluster) -> dict[str, Any]:
    """The same for the clients in pure Python, aiokafka and kafka-python, under the names that both have for it."""
    config: dict[str, Any] = {
        "bootstrap_servers": settings.broker.split(","),
        "security_protocol": settings.security_protocol.upper(),
    }
    if settings.has_password:
        config["sasl_mechanism"] = settings.sasl_mechanism
        config["sasl_plain_username"] = settings.sasl_username
        config["sasl_plain_password"] = settings.password
    if settings.has_tls:
        config["ssl_context"] = settings.ssl_context()
    return config


def producer_config(settings: Settings) -> dict[str, Any]:
    """A producer whose records are neither lost, repeated nor reordered, and placed as Kafka's own clients place them.

    librdkafka's default partitioner is CRC32, which would split a user's events and state over two partitions.
    """
    return client_config(settings) | {
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 1 << 20,
        "batch.num.messages": 10_000,
        "batch.size": 1 << 20,
        "message.timeout.ms": 300_000,
    }


def consumer_config(settings: Settings) -> dict[str, Any]:
    """A consumer that belongs to no group and commits nothing: for bulk reading and for following a topic."""
    return client_config(settings) | {
        "group.id": f"{settings.app}-reader",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": False,
        "allow.auto.create.topics": False,
        "fetch.wait.max.ms": 10,
        "fetch.queue.backoff.ms": 5,
        # small enough that the client finds the memory of the last answer again: new memory costs more than copying
        "fetch.max.bytes": 16 << 20,
        "max.partition.fetch.bytes": 4 << 20,
        "queued.max.messages.kbytes": 32 << 10,
    }


def describe_topics(settings: Settings, names: list[str]) -> dict[str, TopicDescription]:
    """Id and partition count of each topic.

    Raises:
        KafkaException: the cluster cannot be reached, or a topic does not exist.
    """
    admin = AdminClient(client_config(settings))
    answers = admin.describe_topics(TopicCollection(names), request_timeout=TIMEOUT_S)
    described = {name: answer.result() for name, answer in answers.items()}
    return {name: TopicDescription(str(topic.topic_id), len(topic.partitions)) for name, topic in described.items()}


def watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """First offset and end offset of a partition, as `read_committed` sees them.

    Raises:
        KafkaException: no answer for 30 s; a broker that comes back does not know its partitions at once.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_S)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)
        else:
            return low, high


def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """End offset of each partition of a topic, as `read_committed` sees it.

    Raises:
        KafkaException: the cluster cannot be reached, or the topic does not exist.
    """
    consumer = Consumer(consumer_config(settings))
    try:
        partitions = describe_topics(settings, [topic])[topic].partitions
        return {partition: watermarks(consumer, topic, partition)[1] for partition in range(partitions)}
    finally:
        consumer.close()


def read_topic(settings: Settings, topic: str, ends: Mapping[int, int]) -> Iterator[tuple[int, list[Message]]]:
    """Read what each partition has before its end offset in `ends`, one partition after the other.

    Where a partition begins is asked when its turn comes: while the others were read, retention may have moved it.

    Raises:
        KafkaException: the cluster cannot be reached.
        TimeoutError: no progress for 30 s.
    """
    consumer = Consumer(consumer_config(settings))
    try:
        for partition, end in ends.items():
            low, _ = watermarks(consumer, topic, partition)
            for messages in read_range(settings, topic, partition, low, end):
                yield partition, messages
    finally:
        consumer.close()


def read_range(
    settings: Settings, topic: str, partition: int, start: int, end: int, batch: int = 20_000
) -> Iterator[list[Message]]:
    """Read the records of `topic`[`partition`] with offsets in start..end-1, in lists of at most `batch`.

    Offsets may have gaps (compaction, transaction markers). `start` must not lie before the log's first offset.

    Raises:
        KafkaException: the cluster cannot be reached, or `start` is outside the log.
        TimeoutError: no progress for 30 s.
    """
    if start >= end:
        return
    # the client tells the log's end itself: the last offset may be a transaction's marker, which it never delivers
    consumer = Consumer(consumer_config(settings) | {"enable.partition.eof": True})
    try:
        consumer.list_topics(topic, TIMEOUT_S)  # else the client finds the partition's leader half a second later
        consumer.assign([TopicPartition(topic, partition, start)])
        position, deadline = start, time.monotonic() + TIMEOUT_S
        while position < end:
            messages, reached = [], position
            for message in consumer.consume(min(batch, end - position), 0.2):
                error = message.error()
                if error is None:
                    messages.append(message)
                    reached = (message.offset() or 0) + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    reached = message.offset() or 0
                else:
                    raise KafkaException(error)
            if reached > position:
                position, deadline = reached, time.monotonic() + TIMEOUT_S
            elif time.monotonic() > deadline:
                raise TimeoutError(
                    f"{topic}[{partition}] gave nothing from offset {position} to {end} for {TIMEOUT_S} s"
                )
            if wanted := [message for message in messages if (message.offset() or 0) < end]:
                yield wanted
    finally:
        consumer.close()
