"""The topics, read into a `Traffic`: first a bounded part of what they have, then what comes."""

import os
import signal
import threading
import time
from collections import defaultdict, deque
from math import isfinite
from types import TracebackType
from typing import Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ops.console.lag import Lag
from ops.console.traffic import Traffic
from ops.live import LiveEvent, Received
from schemas import event, item, recommendation
from schemas.admission import admit
from schemas.artefact import CHAMPION, decode_manifest
from schemas.kafka import consumer_config, describe_topics, watermarks
from schemas.malformed import Malformed
from schemas.settings import Settings

_OUTAGE: Final = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE}
_BATCH: Final = 500
"""records that are taken in while a reader waits, some 20 ms"""
_WAIT_S: Final = 0.2
_RETRY_S: Final = 1.0
_ANSWER_S: Final = 10.0
_LAG_S: Final = 2.0
_MOST_WAITING: Final = 20_000
_CONSUMER: Final = {
    "auto.offset.reset": "earliest",  # what was to be read next has expired
    "queued.max.messages.kbytes": 16 << 10,
    "fetch.max.bytes": 8 << 20,
    "max.partition.fetch.bytes": 1 << 20,
    "fetch.wait.max.ms": 100,
}


class Feed:
    """Reads while its context is open, in a thread that goes on when the cluster or a topic is away.

    Args:
        settings: name the broker and the topics.
        traffic: takes in what they have.
        read_back: events to begin with, and as many lists, over all partitions.
    """

    def __init__(self, settings: Settings, traffic: Traffic, read_back: int) -> None:
        self._settings = settings
        self._traffic = traffic
        self._read_back = read_back
        self._decode = settings.event_codec.decode
        self._next: dict[str, dict[int, int]] = {}
        """offset of the next record to read, by topic and partition"""
        self._live_from: dict[str, dict[int, int]] = {}
        self._early: defaultdict[int, deque[tuple[Received, bool]]] = defaultdict(deque)
        """lists whose events have not been read yet, by partition, and whether each is live"""
        self.failure: BaseException | None = None
        """what ended the thread, and with it the process: the cluster does not let us in, or what should not happen"""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join(_RETRY_S)  # a call to a cluster that is away takes longer: then it ends with the process

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._follow()
                except (KafkaException, TimeoutError) as error:
                    self._traffic.away(_told(error))
                    self._stopping.wait(_RETRY_S)
        except BaseException as failure:
            self.failure = failure
            os.kill(os.getpid(), signal.SIGTERM)

    def _follow(self) -> None:
        admit(self._settings, "console", _ANSWER_S)
        consumer = Consumer(consumer_config(self._settings) | _CONSUMER)
        try:
            lag = self._begin(consumer)
            measured_at = 0.0
            while not self._stopping.is_set():
                self._take(consumer.consume(_BATCH, _WAIT_S))
                if time.monotonic() - measured_at > _LAG_S:
                    self._measure(lag)
                    measured_at = time.monotonic()
        finally:
            consumer.close()

    def _begin(self, consumer: Consumer) -> Lag:
        """Assign the topics: from where they were left, or from so far back as is to be read."""
        s = self._settings
        bounded = {s.interactions, s.recommendations}
        for topic, description in describe_topics(s, [s.interactions, s.recommendations, s.models, s.items]).items():
            if topic not in self._next:
                partitions = range(description.partitions)
                marks = {partition: watermarks(consumer, topic, partition) for partition in partitions}
                most = self._read_back // len(partitions) if topic in bounded else None
                self._live_from[topic] = {partition: end for partition, (_, end) in marks.items()}
                self._next[topic] = {
                    partition: first if most is None else max(first, end - most)
                    for partition, (first, end) in marks.items()
                }
        self._traffic.live_from = self._live_from[s.interactions]
        places = [(topic, partition, at) for topic, nexts in self._next.items() for partition, at in nexts.items()]
        consumer.assign([TopicPartition(*place) for place in places])
        return Lag(s, self._next[s.interactions])

    def _measure(self, lag: Lag) -> None:
        try:
            measured = lag.measure()
        except KafkaException as error:
            self._traffic.away(_told(error))
        else:
            read = self._next[self._settings.interactions]
            self._traffic.behind = sum(max(0, end - read[partition]) for partition, end in measured.ends.items())
            self._traffic.reachable(measured.lag)

    def _take(self, messages: list[Message]) -> None:
        with self._traffic.lock:
            for message in messages:
                if (error := message.error()) is not None:
                    if error.code() not in _OUTAGE:
                        raise KafkaException(error)
                    continue
                topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
                try:
                    self._add(topic, partition, offset, message)
                except Malformed:
                    self._traffic.malformed += 1
                self._next[topic][partition] = offset + 1
            self._add_early_lists()

    def _add(self, topic: str, partition: int, offset: int, message: Message) -> None:
        s, key, value, at_ms = self._settings, message.key(), message.value(), message.timestamp()[1]
        live = offset >= self._live_from[topic][partition]
        if topic == s.items:
            self._traffic.add_title(item.decode_key(key), "" if value is None else item.decode(value).title)
        elif topic == s.interactions:
            if value is None:
                self._traffic.forget(event.decode_key(key), message.offset() or 0)
            else:
                found = self._decode(value, key, at_ms)
                self._traffic.add_event(LiveEvent(partition, offset, found.user_id, found.item_id, at_ms))
        elif value is None:
            pass  # compaction's mark, or a champion that was withdrawn: the one in service goes on
        elif topic == s.recommendations:
            list_ = recommendation.decode(value)
            for _, score in list_.items:
                if not isfinite(score):
                    raise Malformed("score", score, "must be finite")
            self._early[list_.partition].append((Received(list_, at_ms), live))
        elif key == CHAMPION.encode():
            self._traffic.add_model(decode_manifest(value), at_ms, live=live)

    def _add_early_lists(self) -> None:
        """Add the lists whose events have been read: two topics are not read at one pace."""
        read = self._next[self._settings.interactions]
        for partition, lists in self._early.items():
            while lists and (lists[0][0].list.offset < read.get(partition, 0) or len(lists) > _MOST_WAITING):
                received, live = lists.popleft()
                self._traffic.add_list(received, live=live)


def _told(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return str(reason.str() if isinstance(reason, KafkaError) else reason) or repr(error)
