"""Exact top-k lists over a catalogue.

Shape letters: E lists wanted, N items, D model width, K list length.
"""

import threading
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_app.bounded_ranking import BoundedRanker
from stream_app.tournament import best

_CHUNK_SCORES: Final = 1 << 18
"""scores computed at a time: 1 MiB of float32, which stays in a core's cache"""


_PLAIN_ITEMS: Final = 1 << 13
"""up to so many, scoring every item is faster than finding out which need not be scored"""


class Ranker(Protocol):
    """Ranks all items of a catalogue for a query: score = embedding · query + bias. For several threads."""

    def embeddings(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The embeddings of the items in `rows`, of any shape; f32[..., D]."""

    def set_unavailable(self, rows: NDArray[np.int32]) -> None:
        """From now on the items in these rows are never ranked; all others are. Not during `rank`."""

    def rank(
        self, queries: NDArray[np.float32], seen: NDArray[np.int32], seen_lengths: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The best K = `k` items for each query, without those that were seen.

        Args:
            queries: f32[E, D].
            seen: the seen rows of all queries, one after the other.
            seen_lengths: i64[E], how many of `seen` belong to each query.
            k: list length.

        Returns:
            rows i32[E, K] and scores f32[E, K], best first, equal scores by row. Where fewer than K items are left,
            the scores at the end are -inf.
        """


def make_ranker(embedding: NDArray[np.float32], bias: NDArray[np.float32]) -> Ranker:
    """The faster ranker for the catalogue `embedding` [N, D] with `bias` [N]; it keeps what it needs of both."""
    return (PlainRanker if len(bias) <= _PLAIN_ITEMS else BoundedRanker)(embedding, bias)


class PlainRanker:
    """Scores every item, a matrix product for all queries, and chooses the best."""

    def __init__(self, embedding: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """Take the catalogue: `embedding` [N, D] and `bias` [N]."""
        self._embedding = embedding
        self._bias = bias
        # the bias is the last row, and every query gets a last element of one: no pass of its own to add it
        self._weights = np.ascontiguousarray(np.concatenate((embedding.T, bias[None])))
        # kept from call to call: fresh memory of this size costs more in page faults than the arithmetic
        self._scratch = threading.local()

    def embeddings(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Ranker.embeddings`."""
        items: NDArray[np.float32] = self._embedding[rows]
        return items

    def set_unavailable(self, rows: NDArray[np.int32]) -> None:
        """See `Ranker.set_unavailable`."""
        served = self._bias.copy()
        served[rows] = -np.inf
        self._weights[-1] = served

    def rank(
        self, queries: NDArray[np.float32], seen: NDArray[np.int32], seen_lengths: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `Ranker.rank`."""
        total = len(queries)
        rows, scores = np.empty((total, k), np.int32), np.empty((total, k), np.float32)
        scratch = self._scores()
        chunk, width = scratch.shape
        extended = np.concatenate((queries, np.ones((total, 1), np.float32)), axis=1)
        seen_ends = np.concatenate(([0], np.cumsum(seen_lengths)))
        for start in range(0, total, chunk):
            end = min(start + chunk, total)
            with np.errstate(invalid="ignore"):  # of a bias of -inf times the zeros that fill a register
                all_scores = np.matmul(extended[start:end], self._weights, out=scratch[: end - start])
            lists = np.repeat(np.arange(0, (end - start) * width, width), seen_lengths[start:end])
            all_scores.reshape(-1)[lists + seen[seen_ends[start] : seen_ends[end]]] = -np.inf
            rows[start:end], scores[start:end] = best(all_scores, k)
        return rows, scores

    def _scores(self) -> NDArray[np.float32]:
        """This thread's buffer for the scores of some lists."""
        if not hasattr(self._scratch, "scores"):
            width = self._weights.shape[1]
            self._scratch.scores = np.empty((max(1, _CHUNK_SCORES // width), width), np.float32)
        scores: NDArray[np.float32] = self._scratch.scores
        return scores
