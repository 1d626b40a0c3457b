"""The gate: a candidate becomes the champion unless the newest events show that it is worse.

Both rank the same held-out events, which neither has learned from, from the same histories. One user's events are not
independent of each other, so the users are the sample: the mean difference is the ratio of two sums over users, and its
standard error is that of a ratio estimator (Cochran, "Sampling Techniques", 1977, chapter 6), which is the
cluster-robust one (Cameron and Miller, "A Practitioner's Guide to Cluster-Robust Inference", 2015). A bootstrap over
users gives the same interval, at a thousand times the work and with a seed.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.artefact import Gate
from training.fitting.evaluation import CUTOFFS, ndcg
from training.log.histories import Histories, Spans

MIN_EVENTS: Final = 250
"""held-out events below which nothing is compared: the standard error of a recall of 0.2 is then 0.025"""
MIN_USERS: Final = 30
"""users below which the normal quantile is too narrow: Student's is 4 % wider there, and grows quickly below"""
_QUANTILE: Final = 1.96


def judge(
    champion: int,
    users: NDArray[np.int64],
    candidate_ranks: NDArray[np.int64],
    champion_ranks: NDArray[np.int64],
) -> Gate:
    """Compare two rankings of E events by NDCG@10.

    Args:
        champion: its version.
        users: [E] whose event each is.
        candidate_ranks: [E], 0 is the best.
        champion_ranks: [E].
    """
    owners = len(np.unique(users))
    if len(users) < MIN_EVENTS or owners < MIN_USERS:
        return Gate(
            verdict="uncompared",
            reason=f"too few events to compare: {len(users)} of {owners} users that the champion has not learned from, "
            f"must be {MIN_EVENTS} of {MIN_USERS}",
            champion=champion,
            events=len(users),
            users=owners,
        )
    ours, theirs = ndcg(candidate_ranks, CUTOFFS[0]), ndcg(champion_ranks, CUTOFFS[0])
    difference, error = clustered_mean(ours - theirs, users)
    low, high = difference - _QUANTILE * error, difference + _QUANTILE * error
    worse = high < 0
    return Gate(
        verdict="rejected" if worse else "accepted",
        reason="worse than the champion" if worse else "not shown to be worse than the champion",
        champion=champion,
        events=len(users),
        users=owners,
        candidate_ndcg_at_10=float(ours.mean()),
        champion_ndcg_at_10=float(theirs.mean()),
        difference=difference,
        low=low,
        high=high,
    )


def clustered_mean(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> tuple[float, float]:
    """The mean of E values in at least two clusters, and its standard error.

    With sums s and counts n of the G clusters, the mean is m = Σs / Σn and its variance G/(G-1) Σ(s - m n)² / (Σn)².
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(cluster, weights=values), np.bincount(cluster)
    mean = sums.sum() / counts.sum()
    residuals = sums - mean * counts
    groups = len(sums)
    return float(mean), float(np.sqrt(groups / (groups - 1) * (residuals**2).sum()) / counts.sum())


def owners(users: Spans, events: NDArray[np.int64]) -> NDArray[np.int64]:
    """[E] the number of the user that each of these events, given by position, belongs to."""
    return np.searchsorted(users.begin, events, side="right") - 1


def unseen(histories: Histories, held_out: Spans, since_ms: int, latest_ms: int | None = None) -> Spans:
    """Of each user's held-out span, the events from the first one newer than `since_ms` on.

    Nothing in it was in a log whose newest event was of `since_ms`: what lies behind a newer event came after it. A
    time after `latest_ms` is wrong: its event may have been in that log.
    """
    first = histories.first_newer(since_ms, latest_ms)
    return Spans(np.minimum(np.maximum(held_out.begin, first), held_out.end), held_out.end)
