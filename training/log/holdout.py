"""What a model may learn from and what it is asked to predict."""

from dataclasses import dataclass

import numpy as np

from training.log.histories import Histories, Spans


@dataclass(frozen=True)
class Holdout:
    """For each of the U users: the events to learn from, and the events to predict, each from all those before it."""

    train: Spans
    validation: Spans
    test: Spans


def leave_one_out(histories: Histories) -> Holdout:
    """Each user's last event is the test, the one before it validation; users with fewer than three events only train.

    The protocol of section 4.1 of LRURec, as of SASRec and BERT4Rec before it.
    """
    begin, end = histories.users.begin, histories.users.end
    held = np.where(end - begin >= 3, 1, 0)
    return Holdout(Spans(begin, end - 2 * held), Spans(end - 2 * held, end - held), Spans(end - held, end))


def newest(histories: Histories, share: float, since_ms: int | None = None, latest_ms: int | None = None) -> Holdout:
    """About this share of all events, the newest by timestamp, is for validation; nothing is left for a test.

    With `since_ms`, no more than the newer half of the events after that time. With `latest_ms`, an event with a later
    time is not new: its clock was wrong.

    From a user's first event that is newer than the cut on, all are held out, in whatever order they arrived: nothing
    is predicted from an event that came after it. A user's very first event has nothing to be predicted from, and no
    share at all (0) holds out nothing.

    Raises:
        ValueError: the share is not at least 0 and below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the held-out share must be at least 0 and below 1, got {share}")
    times_ms = histories.timestamps_ms
    if latest_ms is not None and (possible := times_ms <= latest_ms).any():
        times_ms = times_ms[possible]
    cut_ms = np.quantile(times_ms, 1 - share, method="lower")
    if since_ms is not None and (late_ms := times_ms[times_ms > since_ms]).size:
        cut_ms = max(cut_ms, np.quantile(late_ms, 0.5, method="lower"))
    return after(histories, int(cut_ms), latest_ms)


def after(histories: Histories, cut_ms: int, latest_ms: int | None = None) -> Holdout:
    """Each user's events from the first one newer than `cut_ms` on are for validation, but for a very first event."""
    begin, end = histories.users.begin, histories.users.end
    first_held = np.minimum(histories.first_newer(cut_ms, latest_ms), end)
    nothing = Spans(end, end)
    return Holdout(Spans(begin, first_held), Spans(np.minimum(np.maximum(first_held, begin + 1), end), end), nothing)
