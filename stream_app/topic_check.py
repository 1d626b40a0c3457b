"""What must hold before a worker starts: a broker answers, and the topics are as the settings say."""

import time
from typing import Final

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.kafka import client_config
from schemas.settings import Refused, Settings
from schemas.topics import topics

_ATTEMPT_S: Final = 5.0
_PAUSE_S: Final = 1.0

_log = structlog.get_logger()


def await_topics(settings: Settings) -> None:
    """Wait until a broker answers, and check the topics' partition counts.

    Raises:
        Refused: a topic is missing or has another partition count; the message names the command that mends it.
    """
    client = AdminClient(client_config(settings) | {"log_level": 0})  # librdkafka logs every failed connection
    while True:
        try:
            found = client.list_topics(timeout=_ATTEMPT_S).topics
            break
        except KafkaException as error:
            _log.warning("no broker answers, trying again", broker=settings.broker, error=error.args[0].str())
            time.sleep(_PAUSE_S)
    wanted = topics(settings)
    if missing := [topic.name for topic in wanted if topic.name not in found]:
        raise Refused(f"no topic {', '.join(missing)}: `python -m ops topics` creates what is missing")
    for topic in wanted:
        if (partitions := len(found[topic.name].partitions)) != topic.partitions:
            raise Refused(
                f"topic {topic.name} has {partitions} partitions, the setting says {topic.partitions}: "
                "set partitions to that, or `python -m ops topics` under a new app name"
            )
