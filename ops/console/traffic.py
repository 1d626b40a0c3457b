"""What the topics showed lately, in bounded memory: the numbers, the models, the users, and a sample of the events.

The last events and two lists are kept of each user, for the users that were active last. The numbers are about events
that came after the console had started: what it reads back only fills histories.
"""

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ops.console.metrics import Metrics
from ops.console.pulse import Pulse
from ops.live import Answer, LiveEvent, Received, UserTraffic
from schemas.artefact import Manifest
from schemas.recommendation import Recommendation

ROWS_A_SECOND: Final = 8
"""events that are shown with their lists; of more traffic it is a sample"""

_K: Final = 10
"""items of a list that count"""
_ROWS: Final = 30
_UNANSWERED_S: Final = 3.0
"""after which an event is shown without a list"""
_MODELS: Final = 20
_RANKING_S: Final = 2.0
_MOST_ITEMS: Final = 200_000
_MOST_TITLES: Final = 500_000
_MOST_FORGOTTEN: Final = 10_000


@dataclass(slots=True)
class _Model:
    """A model that was made the champion."""

    manifest: Manifest
    at_ms: int
    live: bool
    in_service_ms: float | None = None
    """its first list, if it was announced while the console was running"""
    lists: int = 0


class _Row(NamedTuple):
    number: int
    event: LiveEvent
    answer: Answer | None


class Cursor(NamedTuple):
    """How far a reader has the charts and the rows."""

    second: int = 0
    row: int = -1


class Traffic:
    """Takes in what the topics have, each in its order; whoever calls an `add` method holds the `lock`.

    Args:
        metrics: count the live answers too.
        users: to remember; of more, those that were active last.
        events: to remember of each user.
        clock: Unix seconds.

    Attributes:
        live_from: of each partition, the offset of the first event that counts.
        malformed: records that could not be read.
        behind: events that the console itself has not read yet.
    """

    def __init__(
        self, metrics: Metrics, users: int = 10_000, events: int = 100, clock: Callable[[], float] = time.time
    ) -> None:
        self.lock = threading.RLock()
        self.live_from: Mapping[int, int] = {}
        self.malformed = 0
        self.behind = 0
        self._metrics = metrics
        self._most_users = users
        self._events = events
        self._clock = clock
        self._pulse = Pulse(clock)
        self._broker = "connecting", "", round(clock() * 1000)
        self._users: OrderedDict[str, UserTraffic] = OrderedDict()
        self._titles: dict[str, str] = {}
        self._popularity: Counter[str] = Counter()
        self._ranking: Sequence[str] = ()
        self._ranked_at = 0.0
        self._models: deque[_Model] = deque(maxlen=_MODELS)
        self._serving: int | None = None
        self._unanswered: dict[tuple[int, int], tuple[LiveEvent, float]] = {}
        self._rows: deque[_Row] = deque(maxlen=_ROWS)
        self._forgotten: dict[str, int] = {}
        self._newest_row = -1
        self._row_allowance = float(ROWS_A_SECOND)
        self._allowed_at = clock()

    def add_event(self, event: LiveEvent) -> None:
        """An event; before any list that covers it."""
        self._user(event.user_id).history.append(event)
        self._popularity[event.item_id] += 1
        if self._live(event):
            self._pulse.now().events += 1
            if self._may_show():
                self._show_unanswered()
                self._unanswered[event.partition, event.offset] = event, self._clock()

    def add_list(self, received: Received, *, live: bool) -> None:
        """A list, and whether it was sent while the console was running."""
        list_, at_ms = received
        if list_.offset <= self._forgotten.get(list_.user_id, -1):
            return
        self._rank()
        answers = self._user(list_.user_id).show(list_, at_ms, self._ranking, _K)
        if not live:
            return
        second = self._pulse.now()
        second.lists += 1
        self._serve(list_.model, at_ms)
        for answer in answers:
            if self._live(answer.event):
                second.count(answer)
                self._metrics.count(answer)
                if self._unanswered.pop((answer.event.partition, answer.event.offset), None):
                    self._add_row(answer.event, answer)

    def add_model(self, manifest: Manifest, at_ms: int, *, live: bool) -> None:
        """A model was made the champion."""
        self._models.append(_Model(manifest, at_ms, live))

    def add_title(self, item_id: str, title: str) -> None:
        """The title of an item; empty if it has none any more."""
        if not title:
            self._titles.pop(item_id, None)
        elif item_id in self._titles or len(self._titles) < _MOST_TITLES:
            self._titles[item_id] = title

    def forget(self, user_id: str, offset: int) -> None:
        """Remember nothing of a user up to this offset."""
        self._users.pop(user_id, None)
        self._forgotten[user_id] = offset
        if len(self._forgotten) > _MOST_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]
        self._rows = deque((row for row in self._rows if row.event.user_id != user_id), _ROWS)
        self._unanswered = {
            place: waiting for place, waiting in self._unanswered.items() if waiting[0].user_id != user_id
        }

    def reachable(self, lag: int) -> None:
        """The broker answered: the workers have so many events to do."""
        self._say("reachable", "", lag)

    def away(self, said: str) -> None:
        """The topics cannot be read, and why."""
        self._say("away", said, None)

    @property
    def broker(self) -> str:
        """`connecting`, `reachable` or `away`."""
        return self._broker[0]

    def update(self, after: Cursor) -> tuple[dict[str, Any], Cursor]:
        """What is the case now and what of charts and rows is new; and the cursor for the next call."""
        with self.lock:
            self._show_unanswered()
            numbers = self._pulse.numbers()
            samples = [sample for sample in self._pulse.samples if sample.at > after.second]
            seen = after.row if after.row <= self._newest_row else -1  # a higher one: from before a restart
            rows = [row for row in self._rows if row.number > seen]
            state, said, since_ms = self._broker
            update = {
                "now_ms": round(self._clock() * 1000),
                "broker": {"state": state, "said": said, "since_ms": since_ms},
                "numbers": numbers._asdict()
                | {"behind": self.behind, "malformed": self.malformed, "users": len(self._users)},
                "models": [self._describe(model) for model in reversed(self._models)],
                "samples": [sample._asdict() for sample in samples],
                "rows": [self._show(row) for row in rows],
            }
            return update, Cursor(samples[-1].at if samples else after.second, rows[-1].number if rows else seen)

    def recommendations(self, user_id: str) -> dict[str, Any] | None:
        """The user's last list; None if there is none here."""
        with self.lock:
            user = self._users.get(user_id)
            return self._list(user.lists[-1]) if user and user.lists else None

    def user(self, user_id: str) -> dict[str, Any] | None:
        """The user's history, newest first, the last list, and what the last event moved; None if unknown here."""
        with self.lock:
            user = self._users.get(user_id)
            if user is None:
                return None
            return {
                "user_id": user_id,
                "history": [self._item(event.item_id) | {"sent_ms": event.sent_ms} for event in reversed(user.history)],
                "list": self._list(user.lists[-1]) if user.lists else None,
                "moved": self._moved(*user.lists) if len(user.lists) == 2 else None,
            }

    def _user(self, user_id: str) -> UserTraffic:
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = UserTraffic(self._events)
            if len(self._users) > self._most_users:
                self._users.popitem(last=False)
        else:
            self._users.move_to_end(user_id)
        return user

    def _live(self, event: LiveEvent) -> bool:
        return event.offset >= self.live_from.get(event.partition, 0)

    def _may_show(self) -> bool:
        """Whether there is room for one more row: `ROWS_A_SECOND` of them, spread over the second."""
        now = self._clock()
        gained = (now - self._allowed_at) * ROWS_A_SECOND
        self._row_allowance = min(self._row_allowance + gained, ROWS_A_SECOND)
        self._allowed_at = now
        if self._row_allowance < 1:
            return False
        self._row_allowance -= 1
        return True

    def _show_unanswered(self) -> None:
        before = self._clock() - _UNANSWERED_S
        for place in [place for place, (_, at) in self._unanswered.items() if at < before]:
            self._add_row(self._unanswered.pop(place)[0], None)

    def _add_row(self, event: LiveEvent, answer: Answer | None) -> None:
        self._newest_row += 1
        self._rows.append(_Row(self._newest_row, event, answer))

    def _rank(self) -> None:
        """Bring the most popular items up to date, now and then."""
        if self._clock() - self._ranked_at > _RANKING_S:
            self._ranked_at = self._clock()
            if len(self._popularity) > _MOST_ITEMS:
                self._popularity = Counter(dict(self._popularity.most_common(_MOST_ITEMS // 2)))
            # so many that a user cannot have met all but fewer than k of them
            self._ranking = [item_id for item_id, _ in self._popularity.most_common(self._events + _K)]

    def _serve(self, version: int, at_ms: float) -> None:
        self._serving = version
        model = next((model for model in reversed(self._models) if model.manifest.version == version), None)
        if model is not None:
            model.lists += 1
            if model.live and model.in_service_ms is None:
                model.in_service_ms = at_ms

    def _say(self, state: str, said: str, lag: int | None) -> None:
        with self.lock:
            self._pulse.lag = lag
            if (state, said) != self._broker[:2]:
                self._broker = state, said, round(self._clock() * 1000)

    def _describe(self, model: _Model) -> dict[str, Any]:
        return {
            "version": model.manifest.version,
            "announced_ms": model.at_ms,
            "in_service_ms": model.in_service_ms,
            "serving": model.manifest.version == self._serving,
            "items": model.manifest.items,
            "lists": model.lists,
            "metrics": model.manifest.metrics,
        }

    def _show(self, row: _Row) -> dict[str, Any]:
        event, answer = row.event, row.answer
        shown = self._item(event.item_id) | {"number": row.number, "user_id": event.user_id, "sent_ms": event.sent_ms}
        if answer is None:
            return shown | {"list": None}
        items = [self._item(item_id) for item_id, _ in answer.list.items[:_K]]
        return shown | {"list": items, "latency_ms": round(answer.latency_ms, 1), "hit": answer.hit}

    def _list(self, list_: Recommendation) -> dict[str, Any]:
        return {
            "user_id": list_.user_id,
            "items": [self._item(item_id) | {"score": score} for item_id, score in list_.items],
            "model": list_.model,
            "cause": list_.cause.value,
            "event": {"partition": list_.partition, "offset": list_.offset, "event_id": list_.event_id},
            "history_length": list_.history_length,
            "emitted_at_ms": list_.emitted_at_ms,
        }

    def _moved(self, before: Recommendation, after: Recommendation) -> dict[str, Any]:
        was = {item_id: rank for rank, (item_id, _) in enumerate(before.items, 1)}
        now = {item_id: rank for rank, (item_id, _) in enumerate(after.items, 1)}
        return {
            "entered": [item_id for item_id in now if item_id not in was],
            "left": [self._item(item_id) | {"was": was[item_id]} for item_id in was if item_id not in now],
            "up": {item_id: was[item_id] - rank for item_id, rank in now.items() if was.get(item_id, 0) > rank},
            "down": {item_id: rank - was[item_id] for item_id, rank in now.items() if 0 < was.get(item_id, 0) < rank},
        }

    def _item(self, item_id: str) -> dict[str, Any]:
        return {"item_id": item_id, "title": self._titles.get(item_id)}
