"""The known log: records drawn from a seed, and a thread that sends them at a rate."""

import random
import threading
import time
from itertools import accumulate
from types import TracebackType
from typing import Final, NamedTuple, Self

from ops.publisher import Publisher
from schemas.event import Event, encode, encode_json
from schemas.settings import Settings

_FORGOTTEN: Final = 0.001
_UNREADABLE: Final = 0.01
_REPEATED: Final = 0.03
_LATE: Final = 0.03
_WITH_ID: Final = 0.25
"""shares of the records"""
_LATE_MS: Final = 24 * 3600 * 1000
_TICK_S: Final = 0.01
_FLUSH_S: Final = 300.0


class Sent(NamedTuple):
    """A record of the log; no value makes the service forget the user."""

    user_id: str
    value: bytes | None


class KnownLog:
    """Records without end: users by Zipf's law, repeats, late events, wishes to be forgotten, and rubbish."""

    def __init__(self, seed: int, users: int, item_ids: list[str]) -> None:
        self._draw = random.Random(seed)  # noqa: S311, not for secrets
        self._users = [f"user-{number}" for number in range(users)]
        self._weights = list(accumulate(1 / rank for rank in range(1, users + 1)))
        self._item_ids = [*item_ids, *(f"unknown-{number}" for number in range(len(item_ids) // 50))]
        self._last: dict[str, bytes] = {}
        """by user, the last event that has an id: a producer that repeats sends the same bytes again"""
        self._number = 0

    def next(self, now_ms: int) -> Sent:
        """The next record, of an event at about `now_ms`."""
        draw = self._draw
        [user_id] = draw.choices(self._users, cum_weights=self._weights)
        what = draw.random()
        if what < _FORGOTTEN:
            return Sent(user_id, None)
        if (what := what - _FORGOTTEN) < _UNREADABLE:
            other = encode_json(Event("nobody", "item-1", now_ms))
            return Sent(user_id, draw.choice((b"\xc1", b"", b"{", other, encode(Event(user_id, "", now_ms)))))
        if (what := what - _UNREADABLE) < _REPEATED and user_id in self._last:
            return Sent(user_id, self._last[user_id])
        if what - _REPEATED < _LATE:
            now_ms -= draw.randrange(_LATE_MS)
        self._number += 1
        event_id = f"e{self._number}" if draw.random() < _WITH_ID else None
        item_id = draw.choice(self._item_ids)
        event = Event(user_id, item_id, max(0, now_ms), event_id=event_id)
        value = encode(event) if draw.random() < 0.5 else encode_json(event)
        if event_id is not None:
            self._last[user_id] = value
        return Sent(user_id, value)


class Feeder:
    """Sends a known log from entering the context on; what it sent is acknowledged after `finish`.

    An outage of the broker is no failure: the producer is idempotent and keeps trying for minutes.

    Args:
        settings: name the broker and the topic.
        log: what to send.
        rate: records per second.
    """

    def __init__(self, settings: Settings, log: KnownLog, rate: float) -> None:
        self.sent = 0
        self.failure: BaseException | None = None
        self.jump_ms = 0
        """how far the clock that the events' times come from is off"""
        self._settings = settings
        self._log = log
        self._rate = rate
        self._stopping = threading.Event()
        self._giving_up = False
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def finish(self) -> int:
        """Stop, wait until everything is acknowledged, and return how many records that are.

        Raises:
            Exception: a record could not be delivered.
        """
        self._stopping.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        return self.sent

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._giving_up = kind is not None
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            # not as a context manager, which waits less long than an outage may last
            publisher = Publisher(self._settings, linger_ms=5)
            began = time.monotonic()
            while not self._stopping.wait(_TICK_S):
                now_ms = int(time.time() * 1000) + self.jump_ms
                while self.sent < (time.monotonic() - began) * self._rate and not self._stopping.is_set():
                    publisher.send(self._settings.interactions, *self._log.next(now_ms))
                    self.sent += 1
                publisher.poll(0)
            if not self._giving_up:
                publisher.flush(_FLUSH_S)
        except Exception as failure:
            self.failure = failure
