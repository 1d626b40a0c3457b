"""Interactions out of RecBole's `.inter` files, as events in time order."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from sys import intern

import numpy as np
from numpy.typing import NDArray

from schemas.atomic_file import read
from schemas.event import MAX_TIMESTAMP_MS, Event, identifier
from schemas.malformed import Malformed
from schemas.settings import Refused


@dataclass(frozen=True)
class Interactions:
    """E interactions, oldest first; equal timestamps are in the file's order."""

    user_ids: list[str]
    item_ids: list[str]
    timestamps_ms: NDArray[np.int64]
    """[E] UTC milliseconds"""

    def __len__(self) -> int:
        return len(self.user_ids)

    def part(self, since: float, until: float) -> "Interactions":
        """The events from the fraction `since` of all up to `until`: 0..0.8 and 0.8..1 have each event once."""
        wanted = slice(round(since * len(self)), round(until * len(self)))
        return Interactions(self.user_ids[wanted], self.item_ids[wanted], self.timestamps_ms[wanted])

    def events(self) -> Iterator[Event]:
        """The events, oldest first."""
        return map(Event, self.user_ids, self.item_ids, self.timestamps_ms.tolist())


def read_interactions(path: Path) -> Interactions:
    """Read `user_id`, `item_id` and `timestamp` (seconds); other columns are ignored.

    Raises:
        Refused: the file cannot be read, has no events, lacks a column, or a line breaks the contract of events.
    """
    users, items, timestamps_ms = [], [], []
    for number, row in enumerate(read(path, "user_id", "item_id", "timestamp"), start=2):
        try:
            # the same few ids come again and again
            users.append(intern(identifier("user_id", row["user_id"])))
            items.append(intern(identifier("item_id", row["item_id"])))
            timestamps_ms.append(_timestamp_ms(row["timestamp"]))
        except Malformed as error:
            raise Refused(f"{path}, line {number}: {error}") from None
    if not users:
        raise Refused(f"{path}: no interactions after the header")
    times = np.array(timestamps_ms, np.int64)
    order = np.argsort(times, kind="stable")
    return Interactions([users[row] for row in order], [items[row] for row in order], times[order])


def _timestamp_ms(text: str) -> int:
    try:
        timestamp_ms = 1000 * float(text)
    except ValueError:
        timestamp_ms = float("nan")
    if not 0 <= timestamp_ms <= MAX_TIMESTAMP_MS:
        raise Malformed("timestamp", text, f"must be a number of seconds in 0..{MAX_TIMESTAMP_MS / 1000}")
    return round(timestamp_ms)
