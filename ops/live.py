"""Following live traffic: every list as it comes out, and what it says of latency and hits."""

import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
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


class Hits(NamedTuple):
    """How many events were foreseen."""

    events: int
    """whose user had a list before"""
    hits: int
    """the event's item was in the user's last list before it"""
    popular_hits: int
    """it was among the most popular items that the user had not met"""


def latencies_ms(events: Sequence[LiveEvent], received: Sequence[Received]) -> list[float]:
    """From producing each event to receiving the first list of its user at or after it; events without one are left
    out."""
    lists: dict[tuple[int, str], list[tuple[int, float]]] = defaultdict(list)
    for list_, at_ms in received:
        lists[list_.partition, list_.user_id].append((list_.offset, at_ms))
    found = []
    for event in events:
        arrivals = [at for offset, at in lists[event.partition, event.user_id] if offset >= event.offset]
        if arrivals:
            found.append(min(arrivals) - event.sent_ms)
    return found


def count_hits(
    events: Sequence[LiveEvent],
    received: Sequence[Received],
    seen: Mapping[str, set[str]],
    popularity: Counter[str],
    k: int = 10,
) -> Hits:
    """Compare the lists with what the users did next.

    Args:
        events: of the live traffic, each partition in offset order.
        received: the lists; for a given event offset the last one counts.
        seen: items that each user had met before the live traffic.
        popularity: events of each item before the live traffic.
        k: list length.
    """
    lists: dict[str, dict[int, frozenset[str]]] = defaultdict(dict)
    for list_, _ in received:
        lists[list_.user_id][list_.offset] = frozenset(item_id for item_id, _ in list_.items[:k])
    offsets = {user_id: sorted(by_offset) for user_id, by_offset in lists.items()}
    ranking = [item_id for item_id, _ in popularity.most_common()]
    met = {user_id: set(items) for user_id, items in seen.items()}
    counted = hits = popular_hits = 0
    for event in events:
        before = bisect_left(offsets.get(event.user_id, []), event.offset)
        known = met.setdefault(event.user_id, set())
        if before:
            counted += 1
            hits += event.item_id in lists[event.user_id][offsets[event.user_id][before - 1]]
            popular_hits += event.item_id in _first_unseen(ranking, known, k)
        known.add(event.item_id)
    return Hits(counted, hits, popular_hits)


def _first_unseen(ranking: Sequence[str], seen: set[str], k: int) -> list[str]:
    unseen: list[str] = []
    for item_id in ranking:
        if item_id not in seen:
            unseen.append(item_id)
            if len(unseen) == k:
                break
    return unseen
