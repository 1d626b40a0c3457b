"""Choosing the best of many scores without sorting them.

Score r·C + c plays in column c. The maxima of the columns are scores of different items, so at least `count` scores
reach the `count` best maximum: no other can be among the `count` best.

Shape letters: E lists, N scores, K list length, M scores that come into question, C columns and R rounds.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LOWEST: Final = np.finfo(np.float32).min
"""above minus infinity, which stands for no item"""


def reached_by(scores: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """For each list a value that `count` or a few more of its `scores` [E, N] reach; -inf where there are too few."""
    lists, n = scores.shape
    columns = 1 << max(round(math.log2(16 * n) / 2), (8 * count).bit_length())
    rounds = n // columns
    maxima = scores[:, n - rounds * columns :].reshape(lists, rounds, columns).max(axis=1) if rounds > 1 else scores
    if maxima.shape[1] <= count:
        return np.full(lists, -np.inf, np.float32)
    cutoffs: NDArray[np.float32] = np.partition(maxima, -count, axis=1)[:, -count]
    return cutoffs


def best(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Places i32[E, K] and values f32[E, K] of the K = `k` best `scores` [E, N] of each list, equal ones by place.

    Where fewer than K are above -inf, the values at the end are -inf.
    """
    lists, n = scores.shape
    cutoffs = np.maximum(reached_by(scores, k), _LOWEST)
    chosen = np.flatnonzero(scores >= cutoffs[:, None])
    of = chosen // n
    counts = np.bincount(of, minlength=lists)
    # a row of the same length for each list, [E, M]
    at = of, np.arange(len(chosen)) - (np.cumsum(counts) - counts)[of]
    shape = lists, max(k, int(counts.max(initial=0)))
    places, values = np.zeros(shape, np.int32), np.full(shape, -np.inf, np.float32)
    places[at], values[at] = chosen - of * n, scores.reshape(-1)[chosen]
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(places, order, axis=1), np.take_along_axis(values, order, axis=1)
