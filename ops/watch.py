"""Following the lists as they are sent."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Final

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from pydantic import Field

from ops.titles import read_titles
from ops.topics import admin, require
from schemas.kafka import consumer_config, describe_topics
from schemas.recommendation import Recommendation, decode
from schemas.settings import DONE, Command, Settings

_OUTAGE: Final = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE}
_BATCH: Final = 1_000
_WAIT_S: Final = 0.2


def follow(settings: Settings, user_id: str | None = None) -> Iterator[Recommendation]:
    """The lists that are sent from now on, of one user or of all; it never ends by itself.

    Raises:
        KafkaException: the topic does not exist or cannot be read. An outage of the cluster is waited out.
        Malformed: a record is not a list.
    """
    topic = settings.recommendations
    partitions = range(describe_topics(settings, [topic])[topic].partitions)
    consumer = Consumer(consumer_config(settings) | {"log_level": 2})
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_END) for partition in partitions])
        while True:
            for message in consumer.consume(_BATCH, _WAIT_S):
                error, key, value = message.error(), message.key(), message.value()
                if error is not None:
                    if error.code() not in _OUTAGE:
                        raise KafkaException(error)
                elif value is not None and (user_id is None or key == user_id.encode()):
                    yield decode(value)
    finally:
        consumer.close()


def line(recommendation: Recommendation, titles: Mapping[str, str], width: int | None = None) -> str:
    """A list on one line, cut at `width` characters: when, for whom, why, from how long a history, and the items."""
    r = recommendation
    sent = datetime.fromtimestamp(r.emitted_at_ms / 1000).strftime("%H:%M:%S")
    items = " · ".join(titles.get(item_id) or item_id for item_id, _score in r.items)
    text = f"{sent}  {r.user_id:<12}  {r.cause:<6}  {r.history_length:>4} events  {items}"
    text = "".join(character if character.isprintable() else "?" for character in text)  # ids may steer a terminal
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


class Watch(Command):
    """follow the lists of one user or of all, one line each"""

    user: str | None = Field(None, description="follow this user only")
    lists: int | None = Field(None, ge=1, description="stop after this many")

    def run(self) -> int:
        """Print lists until Ctrl-C."""
        with admin(self, "reader") as client:
            require(client, self.recommendations, self.items)
        titles = read_titles(self)
        with suppress(KeyboardInterrupt):
            for recommendation in islice(follow(self, self.user), self.lists):
                width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
                print(line(recommendation, titles, width), flush=True)
        return DONE
