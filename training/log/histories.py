"""The log as columns: every user's kept events, oldest first, one user after the other."""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.state import RECENT_EVENT_IDS


@dataclass(frozen=True)
class Spans:
    """Stretches of the flat event columns: from `begin` up to, not including, `end`. Empty ones are allowed."""

    begin: NDArray[np.int64]
    end: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events of each span."""
        return self.end - self.begin

    @property
    def events(self) -> int:
        """Events in all spans together."""
        return int(self.lengths.sum())

    def __len__(self) -> int:
        return len(self.begin)

    def __getitem__(self, chosen: NDArray[np.int64] | slice) -> "Spans":
        return Spans(self.begin[chosen], self.end[chosen])


@dataclass(frozen=True)
class Histories:
    """E events of U users over N items. Every user and every item has at least one event."""

    items: NDArray[np.int32]
    """[E] row of the catalogue."""
    timestamps_ms: NDArray[np.int64]
    """[E] UTC milliseconds; order within a user is the log's, whatever the timestamps say."""
    users: Spans
    """[U] the events of each user."""
    item_ids: list[str]
    """[N] in row order."""

    def first_newer(self, since_ms: int, latest_ms: int | None = None) -> NDArray[np.int64]:
        """[U] where each user's first event after `since_ms`, and not after `latest_ms`, is; E or more without one."""
        newer = self.timestamps_ms > since_ms
        if latest_ms is not None:
            newer &= self.timestamps_ms <= latest_ms
        events = len(self.items)
        return np.minimum.reduceat(np.where(newer, np.arange(events), events), self.users.begin)


class HistoryBuilder:
    """Collects events one by one, in log order. Repeats are dropped, forgotten users leave nothing behind.

    The plain way, for small logs; `training.log.columns` is the fast one, and its tests hold it to this one.
    """

    def __init__(self) -> None:
        self.repeated = 0
        """Events dropped because their user had the same event id among the last `RECENT_EVENT_IDS`."""
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._event_users = array("q")
        self._event_items = array("q")
        self._timestamps_ms = array("q")
        self._forgotten_before: dict[int, int] = {}
        self._event_ids: dict[int, deque[str]] = {}

    def __len__(self) -> int:
        return len(self._event_users)

    def add(self, user_id: str, item_id: str, timestamp_ms: int, event_id: str | None = None) -> None:
        """Append an event to its user's history, unless it is a repeat."""
        user = self._users.setdefault(user_id, len(self._users))
        if event_id is not None:
            recent = self._event_ids.get(user)
            if recent is None:
                recent = self._event_ids[user] = deque(maxlen=RECENT_EVENT_IDS)
            if event_id in recent:
                self.repeated += 1
                return
            recent.append(event_id)
        self._event_users.append(user)
        self._event_items.append(self._items.setdefault(item_id, len(self._items)))
        self._timestamps_ms.append(timestamp_ms)

    def forget(self, user_id: str) -> None:
        """Drop everything that this user has done so far."""
        user = self._users.get(user_id)
        if user is not None:
            self._forgotten_before[user] = len(self)
            self._event_ids.pop(user, None)

    def build(self) -> Histories:
        """The columns."""
        users = np.array(self._event_users, dtype=np.int64)
        items = np.array(self._event_items, dtype=np.int64)
        timestamps_ms = np.array(self._timestamps_ms, dtype=np.int64)
        forgotten_before = np.zeros(len(self._users), dtype=np.int64)
        for user, position in self._forgotten_before.items():
            forgotten_before[user] = position
        kept = np.flatnonzero(np.arange(len(users)) >= forgotten_before[users])
        return grouped(users[kept], items[kept], timestamps_ms[kept], list(self._items))


def grouped(
    users: NDArray[np.integer],
    items: NDArray[np.integer],
    timestamps_ms: NDArray[np.int64],
    item_ids: Sequence[str],
) -> Histories:
    """Histories of E events in log order, given the number of each one's user and item.

    Users and rows are numbered anew, by the first of these events that has them: what was forgotten leaves no trace.
    """
    user_of, _ = _renumbered(users)
    item_of, known = _renumbered(items)
    order = np.argsort(user_of, kind="stable")
    counts = np.bincount(user_of)
    ends = np.cumsum(counts, dtype=np.int64)
    spans = Spans(ends - counts, ends)
    return Histories(item_of[order], timestamps_ms[order], spans, [item_ids[item] for item in known.tolist()])


def _renumbered(numbers: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Numbers in the order of first appearance, and the old number of each new one."""
    first = np.full(int(numbers.max(initial=-1)) + 1, len(numbers), dtype=np.int64)
    np.minimum.at(first, numbers, np.arange(len(numbers)))
    known = np.argsort(first, kind="stable")[: np.count_nonzero(first < len(numbers))]
    new = np.zeros(len(first), dtype=np.int32)
    new[known] = np.arange(len(known), dtype=np.int32)
    return new[numbers], known
