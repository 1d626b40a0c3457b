"""What must hold before a worker starts: a broker answers and lets it in, and the topics are as the settings say."""

import time
from typing import Final

import structlog
from confluent_kafka import KafkaException

from schemas.admission import admit
from schemas.settings import Refused, Settings
from schemas.topics import topics

_ATTEMPT_S: Final = 5.0
_PAUSE_S: Final = 1.0

_log = structlog.get_logger()


def await_topics(settings: Settings) -> None:
    """Wait until a broker answers, and check the topics' partition counts.

    Raises:
        Refused: the cluster does not let the worker in, or do what it must; or a topic is missing or has another
            partition count. The message names what mends it.
    """
    while True:
        try:
            found = admit(settings, "worker", _ATTEMPT_S).topics
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
                "set partitions to that; where it got more of them, states are in the wrong ones then: set also other "
                "names of app, recommendations and dead_letters, and `python -m ops topics` makes these topics"
            )
