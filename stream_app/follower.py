"""A thread that keeps the worker up to date with a topic: caught up before the first round, following after it."""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from confluent_kafka import Message

from schemas.settings import Settings
from stream_app.topic_tail import TopicTail

_READ_S: Final = 0.5


class Subject(Protocol):
    """What is kept up to date."""

    @property
    def ready(self) -> bool:
        """Whether the first round may come; until then `follow` is called."""

    def catch_up(self, messages: Sequence[Message]) -> None:
        """Take in the whole topic, once, before the first round."""

    def follow(self, messages: Sequence[Message]) -> None:
        """Take in what came since; called twice a second, mostly with nothing."""


class Follower:
    """Feeds a subject from a topic until the context ends.

    Args:
        settings: name the broker.
        topic: with one partition.
        subject: fed from the calling thread by `catch_up`, then from the follower's own.
        fail: called with what the subject raised while following; it must end the process.
    """

    def __init__(self, settings: Settings, topic: str, subject: Subject, fail: Callable[[BaseException], None]) -> None:
        self._subject = subject
        self._fail = fail
        self._tail = TopicTail(settings, topic)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"follow {topic}", daemon=True)

    def __enter__(self) -> Self:
        self._subject.catch_up(self._tail.read_to_end())
        while not self._subject.ready:
            self._subject.follow(self._tail.read(_READ_S))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # a download may be running: the thread is a daemon and ends with the process
        self._stopping.set()

    def _follow(self) -> None:
        try:
            with self._tail:
                while not self._stopping.is_set():
                    self._subject.follow(self._tail.read(_READ_S))
        except Exception as failure:
            self._fail(failure)
