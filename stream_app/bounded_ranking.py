"""Exact top-k lists over a large catalogue, most of which is never scored.

The score of an item is the float32 sum embedding · query + bias, one item at a time in the same order of additions, so
that equal items have equal scores. It is computed only for groups of items whose upper bound reaches a list's cutoff:
where the k-th best of these scores is no lower than the cutoff, no other item can be in the list. Where it is lower,
it becomes the cutoff and the list is made again.

Shape letters: E lists, N items, D model width, K list length, C groups of R items, P groups scored for E lists.
"""

import math
import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.bounds import GroupBounds, Seen
from stream_app.tournament import reached_by

_CHUNK_LISTS: Final = 128
_SCORED_BYTES: Final = 1 << 19
"""of embeddings that are gathered and scored at a time: they stay in a core's cache"""
_NORM_STRIPS: Final = 32
_GROUPS_PER_MEMBER: Final = 1000
"""C = 1000·R is the cheapest: more groups take longer to choose from, larger ones longer to score"""


class BoundedRanker:
    """Ranks the items of a large catalogue; see `stream_app.ranking.Ranker`."""

    def __init__(self, embedding: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """Take the catalogue: `embedding` [N, D] and `bias` [N]."""
        n = len(bias)
        self._size = 1 << max(0, round(math.log2(n / _GROUPS_PER_MEMBER) / 2))
        groups = -(-n // self._size)
        order = _alike(embedding, bias)
        padded = np.concatenate((order, np.full(groups * self._size - n, order[-1])))
        self._members = padded.reshape(groups, self._size)
        self._place = np.empty(n, np.int32)
        self._place[order] = np.arange(n, dtype=np.int32)
        self._items = embedding[self._members]
        self._bias = np.full(self._members.shape, -np.inf, np.float32)
        self._bias.reshape(-1)[:n] = bias[order]
        self._served = self._bias, self._bias.max(axis=1)
        self._bounds = GroupBounds(self._items)
        # kept from call to call: fresh memory of this size costs more in page faults than the arithmetic
        self._scratch = threading.local()

    def embeddings(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `stream_app.ranking.Ranker.embeddings`."""
        items: NDArray[np.float32] = self._items.reshape(-1, self._items.shape[2])[self._place[rows]]
        return items

    def set_unavailable(self, rows: NDArray[np.int32]) -> None:
        """See `stream_app.ranking.Ranker.set_unavailable`."""
        bias = self._bias.copy()
        bias.reshape(-1)[self._place[rows]] = -np.inf
        self._served = bias, bias.max(axis=1)

    def rank(
        self, queries: NDArray[np.float32], seen: NDArray[np.int32], seen_lengths: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `stream_app.ranking.Ranker.rank`; of equal scores the first rows are in the list."""
        total = len(queries)
        rows, scores = np.zeros((total, k), np.int32), np.full((total, k), -np.inf, np.float32)
        ends = np.concatenate(([0], np.cumsum(seen_lengths)))
        for start in range(0, total, _CHUNK_LISTS):
            end = min(start + _CHUNK_LISTS, total)
            chunk = slice(start, end)
            of_chunk = self._seen(seen[ends[start] : ends[end]], seen_lengths[chunk])
            self._rank(queries[chunk], of_chunk, rows[chunk], scores[chunk])
        return rows, scores

    def _seen(self, rows: NDArray[np.int32], lengths: NDArray[np.int64]) -> Seen:
        places = self._place[rows]
        order = np.argsort(places, kind="stable")
        lists = np.repeat(np.arange(len(lengths)), lengths)
        groups, members = np.divmod(places[order], np.int32(self._size))
        return Seen(lists[order], groups, members)

    def _rank(
        self, queries: NDArray[np.float32], seen: Seen, rows: NDArray[np.int32], scores: NDArray[np.float32]
    ) -> None:
        """Write the lists of one chunk: `rows` and `scores` [E, K]."""
        bias, best_bias = self._served
        bounds = self._bounds_buffer()[: len(queries)]
        self._bounds.compute(queries, best_bias, seen, bounds)
        cutoffs = reached_by(bounds, 2 * scores.shape[1] + 4)
        rows[...], scores[...] = self._best_above(cutoffs, bounds, queries, bias, seen, scores.shape[1])
        reached = np.nextafter(scores[:, -1], np.float32(-np.inf))  # a bound below it belongs to a lower score
        for index in np.flatnonzero(reached < cutoffs).tolist():
            of = slice(index, index + 1)
            its = seen.lists == index
            own = Seen(np.zeros(its.sum(), np.int64), seen.groups[its], seen.members[its])
            rows[of], scores[of] = self._best_above(reached[of], bounds[of], queries[of], bias, own, scores.shape[1])

    def _best_above(
        self,
        cutoffs: NDArray[np.float32],
        bounds: NDArray[np.float32],
        queries: NDArray[np.float32],
        bias: NDArray[np.float32],
        seen: Seen,
        k: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Rows and scores [E, K] of the best items in the groups whose bounds [E, C] reach their list's cutoff."""
        count, width = bounds.shape[1], queries.shape[1]
        chosen = np.flatnonzero(bounds >= cutoffs[:, None])
        lists, groups = np.divmod(chosen, count)
        scores = np.empty((len(chosen), self._size), np.float32)  # [P, R]
        step = max(1, _SCORED_BYTES // (4 * width * self._size))
        gathered = np.empty((min(step, len(chosen)), self._size, width), np.float32)
        for start in range(0, len(chosen), step):
            of = slice(start, start + step)
            items = np.take(self._items, groups[of], axis=0, out=gathered[: len(groups[of])], mode="clip")
            np.einsum("pd,prd->pr", queries[lists[of]], items, out=scores[of])
        scores += bias[groups]
        hit = np.flatnonzero(bounds[seen.lists, seen.groups] >= cutoffs[seen.lists])
        at = np.searchsorted(chosen, seen.lists[hit] * count + seen.groups[hit])
        scores[at, seen.members[hit]] = -np.inf
        # a row of the same length for each list
        starts = np.searchsorted(lists, np.arange(len(queries)))
        place = np.arange(len(chosen)) - starts[lists]
        shape = len(queries), int(place.max(initial=0)) + 1, self._size
        all_scores, all_rows = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int32)
        all_scores[lists, place], all_rows[lists, place] = scores, self._members[groups]
        return _best(all_scores.reshape(len(queries), -1), all_rows.reshape(len(queries), -1), k)

    def _bounds_buffer(self) -> NDArray[np.float32]:
        """This thread's."""
        if not hasattr(self._scratch, "bounds"):
            self._scratch.bounds = np.empty((_CHUNK_LISTS, len(self._items)), np.float32)
        buffer: NDArray[np.float32] = self._scratch.bounds
        return buffer


def _alike(embedding: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.int32]:
    """Rows in an order in which neighbours have about the same norm and bias: their group's bounds are tight."""
    n = len(bias)
    strip = np.empty(n, np.int32)
    strip[np.argsort(np.linalg.norm(embedding, axis=1))] = np.arange(n) * _NORM_STRIPS // n
    return np.lexsort((bias, strip)).astype(np.int32)


def _best(
    scores: NDArray[np.float32], rows: NDArray[np.int32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The K best of each list's `scores` [E, M] with their `rows` [E, M], in order; -inf where there are fewer."""
    kept = min(k, scores.shape[1])
    best = np.argpartition(scores, -kept, axis=1)[:, -kept:]
    best_rows, best_scores = np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)
    lowest = best_scores.min(axis=1)
    tied = (scores >= lowest[:, None]).sum(axis=1) > kept
    for index in np.flatnonzero(tied & (lowest > -np.inf)).tolist():  # of equal scores, the first rows
        every = np.flatnonzero(scores[index] >= lowest[index])
        first = every[np.lexsort((rows[index, every], -scores[index, every]))[:kept]]
        best_rows[index], best_scores[index] = rows[index, first], scores[index, first]
    order = np.lexsort((best_rows, -best_scores), axis=1)
    best_rows, best_scores = (
        np.take_along_axis(best_rows, order, axis=1),
        np.take_along_axis(best_scores, order, axis=1),
    )
    if kept < k:
        pad = ((0, 0), (0, k - kept))
        best_rows, best_scores = np.pad(best_rows, pad), np.pad(best_scores, pad, constant_values=-np.inf)
    return best_rows, best_scores
