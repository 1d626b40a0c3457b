"""Following live traffic: every list as it comes out, and what it says of latency and hits."""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.kafka import consumer_config
from schemas.recommendation import Recommendation, decode
from schemas.settings import Settings

_WAIT_S: Final = 0.2
_BATCH: Final = 1_000


class Received(NamedTuple):
    """A list, and when it arrived."""

    list: Recommendation
    at_ms: float


class Listener:
    """Collects the lists that are sent while its context is open, in a thread.

    Args:
        settings: name the broker and the topic.
        start: offset for each partition to read from.
    """

    def __init__(self, settings: Settings, start: Mapping[int, int]) -> None:
        self.received: list[Received] = []
        self.model: int | None = None
        """version of the newest model that a list came from"""
        self.failure: BaseException | None = None
        self._consumer = Consumer(consumer_config(settings))
        self._consumer.assign([TopicPartition(settings.recommendations, p, offset) for p, offset in start.items()])
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        if self.failure is not None and error is None:
            raise self.failure

    def _listen(self) -> None:
        try:
            while not self._stopping.is_set():
                if (first := self._consumer.poll(_WAIT_S)) is None:
                    continue
                messages = [first, *self._consumer.consume(_BATCH, 0)]
                now_ms = time.time() * 1000
                for message in messages:
                    if (failure := message.error()) is not None:
                        raise KafkaException(failure)
                    if (value := message.value()) is not None:
                        list_ = decode(value)
                        self.received.append(Received(list_, now_ms))
                        self.model = max(self.model or 0, list_.model)
        except Exception as failure:
            self.failure = failure
        finally:
            self._consumer.close()


class LiveEvent(NamedTuple):
    """An event of the live traffic, as the topic has it."""

    partition: int
    offset: int
    user_id: str
    item_id: str
    sent_ms: int
    """when it was produced"""


class Answer(NamedTuple):
    """The first list that covers an event, and whether the event was foreseen."""

    event: LiveEvent
    list: Recommendation
    latency_ms: float
    """from producing the event to the list"""
    hit: bool | None
    """the event's item was in the user's last list before it; None if there was none"""
    popular_hit: bool
    """it was among the most popular items that the user had not met"""


class UserTraffic:
    """What one user did and was shown, oldest first.

    Args:
        kept: events to remember; None for all.
    """

    __slots__ = ("history", "lists")

    def __init__(self, kept: int | None = None) -> None:
        self.history: deque[LiveEvent] = deque(maxlen=kept)
        self.lists: deque[Recommendation] = deque(maxlen=2)
        """the last one, and the last one of an earlier event; for a given event offset the last list counts"""

    def show(self, list_: Recommendation, at_ms: float, ranking: Sequence[str], k: int = 10) -> list[Answer]:
        """Take in the user's next list; the answers to the events that it is the first to cover.

        Args:
            list_: its events must be in the history, if they are to be answered.
            at_ms: when it came.
            ranking: item ids, most popular first.
            k: list length.
        """
        last = self.lists[-1] if self.lists else None
        covered = last.offset if last else list_.offset - 1  # what came before may have had no model to serve it
        expected = {item_id for item_id, _ in last.items[:k]} if last else set()
        answers: list[Answer] = []
        met: set[str] = set()
        for event in self.history:
            if covered < event.offset <= list_.offset:
                hit = event.item_id in expected if last else None
                popular_hit = event.item_id in _first_unseen(ranking, met, k)
                answers.append(Answer(event, list_, at_ms - event.sent_ms, hit, popular_hit))
            met.add(event.item_id)
        if last and list_.offset == covered:
            self.lists[-1] = list_
        elif list_.offset > covered:
            self.lists.append(list_)
        return answers


def _first_unseen(ranking: Sequence[str], seen: set[str], k: int) -> list[str]:
    unseen: list[str] = []
    for item_id in ranking:
        if item_id not in seen:
            unseen.append(item_id)
            if len(unseen) == k:
                break
    return unseen
