"""Ranked rows as encoded lists.

Shape letters: E lists, K list length. A score of -inf stands for no item: its place in the list is left out.
"""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas import recommendation
from schemas.recommendation import Encoder, Recommendation
from stream_app.advance import Owed
from stream_app.model import Model


class Wanted(NamedTuple):
    """A list to be sent, but for its items."""

    user_id: str
    partition: int
    owed: Owed


def encode_msgpack(
    model: Model, lists: Sequence[Wanted], rows: NDArray[np.int32], scores: NDArray[np.float32], now_ms: int
) -> list[bytes]:
    """The `lists` with the items in `rows` i32[E, K] and their `scores` f32[E, K], sent at `now_ms`."""
    encode = Encoder(model.version, now_ms).encode
    heads, packed_scores = model.item_heads, scores.astype(">f4").tobytes()
    starts = count(0, 4 * scores.shape[1])
    return [
        encode(
            user_id,
            [heads[row] + packed_scores[at : at + 4] for row, at in zip(best, range(start, start + 4 * length, 4))],  # noqa: B905
            cause,
            partition,
            offset,
            timestamp_ms,
            event_id,
            history_length,
        )
        for (user_id, partition, (cause, offset, timestamp_ms, event_id, history_length)), best, length, start in zip(
            lists, rows.tolist(), _lengths(scores), starts, strict=False
        )
    ]


def encode_json(
    model: Model, lists: Sequence[Wanted], rows: NDArray[np.int32], scores: NDArray[np.float32], now_ms: int
) -> list[bytes]:
    """Like `encode_msgpack`, as JSON."""
    return [
        recommendation.encode_json(
            Recommendation(
                user_id,
                [(model.item_ids[row], score) for row, score in zip(best[:length], values[:length], strict=True)],
                model.version,
                owed.cause,
                partition,
                owed.offset,
                owed.timestamp_ms,
                owed.event_id,
                owed.history_length,
                now_ms,
            )
        )
        for (user_id, partition, owed), best, values, length in zip(
            lists, rows.tolist(), scores.tolist(), _lengths(scores), strict=True
        )
    ]


def _lengths(scores: NDArray[np.float32]) -> list[int]:
    lengths: list[int] = (scores > -np.inf).sum(axis=1).tolist()
    return lengths
