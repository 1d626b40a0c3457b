"""When the first round may come, without a broker."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import pytest
from confluent_kafka import Message

from schemas.settings import Settings
from stream_app import follower
from stream_app.follower import Follower


class Tail:
    """A topic whose records are numbers, one more with each read."""

    def __init__(self, *_: Any) -> None:
        self._read = 0

    def read_to_end(self) -> list[Any]:
        return [0]

    def read(self, _timeout_s: float) -> list[Any]:
        self._read += 1
        return [self._read]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass


class Slow:
    """Ready after the third record."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.by_thread = threading.Event()

    @property
    def ready(self) -> bool:
        return len(self.taken) >= 3

    def catch_up(self, messages: Sequence[Message]) -> None:
        self.taken += messages

    def follow(self, messages: Sequence[Message]) -> None:
        if self.ready:
            self.by_thread.set()
        else:
            self.taken += messages


def test_nothing_starts_before_the_subject_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "TopicTail", Tail)
    slow = Slow()
    with Follower(Settings(_env_file=None), "models", slow, fail=lambda _: None):
        assert slow.taken == [0, 1, 2]
        assert slow.by_thread.wait(10)
