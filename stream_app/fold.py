"""Folding many histories at once.

A *segment* is a stretch of one user's history that is stepped from one starting state: the new events on top of the
stored state, or a whole history from a state of zeros (a user's first events, a re-base, a trimmed history). Segments
do not depend on each other, so a round steps all of them side by side, the longest deciding the number of calls: at
most 3/2 of the history length, however many events one user has in the round. Where no query is wanted for a while, as
in most of a history that is folded again, one call takes a whole chunk of items.

Shape letters: G segments, E marks, D model width, S state floats.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_app.model import UNKNOWN, Model

_SIDE_BY_SIDE: Final = 256
_POSITIONS: Final = 1024
"""at most so many segments in one call, and so many items: what is computed of them stays in a core's cache"""


class Segment(NamedTuple):
    """A history, of which the first `folded` items are in `state` and `query` already."""

    items: bytes
    """u64 item hashes, oldest first"""
    folded: int
    state: bytes
    """f32[S] after `folded` items; empty for zeros"""
    query: bytes
    """f32[D] after `folded` items; empty for zeros"""
    marks: Sequence[int]
    """after how many items of the history a query is wanted, ascending, each at least `folded`"""


class Folded(NamedTuple):
    """What `fold` gives for G segments with E marks in all."""

    states: NDArray[np.float32]
    """[G, S] at the end of each segment"""
    queries: NDArray[np.float32]
    """[G, D] at the end of each segment"""
    marked: NDArray[np.float32]
    """[E, D] queries at the marks, segment by segment"""
    seen: NDArray[np.int32]
    """known rows of the history up to each mark, mark by mark"""
    seen_lengths: NDArray[np.int64]
    """[E] how many of `seen` belong to each mark"""
    steps: int
    """model steps that were run"""


def fold(model: Model, segments: Sequence[Segment]) -> Folded:
    """Step every segment through its history. Items that `model` does not know change nothing."""
    starts = _offsets([len(segment.items) // 8 for segment in segments])
    rows = model.rows(np.frombuffer(b"".join([segment.items for segment in segments]), "<u8"))
    known = rows != UNKNOWN
    known_before = np.concatenate(([0], np.cumsum(known)))
    known_rows = rows[known]
    folded = np.array([segment.folded for segment in segments], np.int64)
    first = known_before[starts[:-1] + folded]  # of each segment, in known_rows
    steps = known_before[starts[1:]] - first

    states = _matrix([segment.state for segment in segments], model.state_floats)
    # one slot for the query before the first step of a segment, then one after each step
    slots = _offsets(steps + 1)
    queries = np.empty((slots[-1], model.width), np.float32)
    queries[slots[:-1]] = _matrix([segment.query for segment in segments], model.width)
    marks = np.array([mark for segment in segments for mark in segment.marks], np.int64)
    unmarked = [segment.marks[0] if segment.marks else len(segment.items) // 8 for segment in segments]
    quiet = known_before[starts[:-1] + np.array(unmarked, np.int64)] - first  # steps up to the first query wanted
    done = np.zeros(len(segments), np.int64)
    for stride in model.strides:
        calls = ((steps if stride == 1 else quiet) - done) // stride
        _advance(model, stride, calls, known_rows, first + done, slots[:-1] + done, states, queries)
        done += stride * calls

    of = np.repeat(np.arange(len(segments)), [len(segment.marks) for segment in segments])
    known_until = known_before[starts[of] + marks]
    known_from = known_before[starts[of]]
    return Folded(
        states,
        queries[slots[1:] - 1],
        queries[slots[of] + known_until - first[of]],
        known_rows[_ranges(known_from, known_until - known_from)],
        known_until - known_from,
        int(steps.sum()),
    )


def _advance(
    model: Model,
    stride: int,
    calls: NDArray[np.int64],
    known_rows: NDArray[np.int32],
    first: NDArray[np.int64],
    slots: NDArray[np.int64],
    states: NDArray[np.float32],
    queries: NDArray[np.float32],
) -> None:
    """Advance each segment by `calls` [G] times `stride` items, side by side.

    `first` [G] is where its next item is in `known_rows`, `slots` [G] where its last query is in `queries`. Writes
    `states` and the queries after each call in place.
    """
    longest_first = np.argsort(-calls, kind="stable")[: np.count_nonzero(calls)]
    together = min(_SIDE_BY_SIDE, max(1, _POSITIONS // stride))
    for lanes in np.split(longest_first, range(together, len(longest_first), together)):
        current, ascending = states[lanes], -calls[lanes]
        items, slot = first[lanes, None] + np.arange(stride), slots[lanes]
        for call in range(1, calls[lanes].max(initial=0) + 1):
            active = int(np.searchsorted(ascending, -call, side="right"))  # those with so many calls come first
            states[lanes[active : len(current)]] = current[active:]
            current, queries[slot[:active] + stride * call] = model.advance(
                current[:active], known_rows[items[:active]]
            )
            items += stride
        states[lanes[: len(current)]] = current


def _matrix(rows: Sequence[bytes], width: int) -> NDArray[np.float32]:
    """Rows of float32 as a matrix [len(rows), width]; an empty row is zeros."""
    zeros = bytes(4 * width)
    return np.frombuffer(bytearray(b"".join([row or zeros for row in rows])), "<f4").reshape(len(rows), width)


def _offsets(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of several runs starts when they lie one after the other, and where the last one ends."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The indices start..start+length-1 of every range, one range after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
