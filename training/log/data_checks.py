"""Checks of the data before a training: what is not fit to learn from ends the run, in words and figures."""

from dataclasses import dataclass

import numpy as np

from training.log.histories import Histories
from training.log.holdout import Holdout

_RELEVANT_EVENTS = 1_000
"""below these a few sessions of one user are a large share of all, and say nothing"""
_TIMES_MEDIAN = 20
"""A user who floods a log stands out from the others as well as in the sum. In MovieLens 1M the busiest has 24 times
the median, but 0.2 % of the events; among ten users each may have a tenth."""


class UnfitData(ValueError):
    """The data are not fit to learn from; the message has one part for each problem."""


@dataclass(frozen=True)
class Limits:
    """What data must be like; each is a setting of the same name."""

    min_users: int = 10
    """Users with two events or more: of fewer nothing is learned that holds for others."""
    min_held_out: int = 10
    """Events held out, where any are to be: on fewer nothing is measured."""
    max_user_share: float = 0.05
    """Of all events, by one user who also has far more than the others."""
    max_future_share: float = 0.001
    """Of all events: they are the newest, so they would be a tenth of these shares of what is held out."""
    future_tolerance_h: float = 24.0
    """How far a clock may be ahead."""

    def latest_ms(self, now_ms: int) -> int:
        """The latest time that an event can have, in UTC milliseconds."""
        return now_ms + round(3_600_000 * self.future_tolerance_h)


def problems(
    histories: Histories, holdout: Holdout, limits: Limits, now_ms: int, *, held_out: bool, busiest: str = ""
) -> list[str]:
    """What is wrong with the data, a line each; nothing if it is fit.

    Args:
        histories: E events, at least one.
        holdout: what would be held out of them.
        limits: what is allowed.
        now_ms: UTC milliseconds.
        held_out: whether anything is meant to be held out.
        busiest: the user with the most events.
    """
    return [
        problem
        for problem in (
            _users(histories, limits),
            _items(histories),
            _held_out(histories, holdout, limits) if held_out else None,
            _future(histories, limits, now_ms),
            _burst(histories, limits, busiest),
        )
        if problem
    ]


def _users(histories: Histories, limits: Limits) -> str | None:
    users = int(np.count_nonzero(histories.users.lengths >= 2))
    if users >= limits.min_users:
        return None
    have = "user has" if users == 1 else "users have"
    return f"only {users:,} {have} two events or more, --min-users is {limits.min_users:,}"


def _items(histories: Histories) -> str | None:
    if len(histories.item_ids) > 1:
        return None
    return f"all {len(histories.items):,} events are of one item, {histories.item_ids[0]!r}: there is nothing to rank"


def _held_out(histories: Histories, holdout: Holdout, limits: Limits) -> str | None:
    held_out = holdout.validation.events + holdout.test.events
    if held_out >= limits.min_held_out:
        return None
    first, last = int(histories.timestamps_ms.min()), int(histories.timestamps_ms.max())
    if first == last:
        why = f"all {len(histories.items):,} events have the timestamp {first}, try --split leave-one-out"
        return f"nothing can be held out by time: {why}"
    are = "event is" if held_out == 1 else "events are"
    return f"only {held_out:,} {are} held out, --min-held-out is {limits.min_held_out:,}"


def _future(histories: Histories, limits: Limits, now_ms: int) -> str | None:
    latest_ms, events = limits.latest_ms(now_ms), len(histories.items)
    future = int(np.count_nonzero(histories.timestamps_ms > latest_ms))
    if future <= limits.max_future_share * events:
        return None
    are = "is" if future == 1 else "are"
    ahead = f"{future:,} of {events:,} events {are} more than {limits.future_tolerance_h:g} h in the future"
    return f"{ahead}, --max-future-share is {limits.max_future_share:g}"


def _burst(histories: Histories, limits: Limits, busiest: str) -> str | None:
    lengths, events = histories.users.lengths, len(histories.items)
    most, median = int(lengths.max()), float(np.median(lengths))
    if events < _RELEVANT_EVENTS or most <= limits.max_user_share * events or most <= _TIMES_MEDIAN * median:
        return None
    share = f"user {busiest!r} has {most:,} of {events:,} events, {most / events:.1%}, and the median user {median:g}"
    return f"{share}; --max-user-share is {limits.max_user_share:g}"
