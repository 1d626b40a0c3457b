"""Ranked rows as encoded lists.

Shape letters: E lists, K list length. A score of -inf stands for no item: its place in the list is left out.
"""

from collections.abc import Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from schemas import recommendation
from schemas.recommendation import Encoder, Recommendation
from stream_app.advance import Owed
from stream_app.model import Model

Wanted = tuple[bytes, int, Owed]
"""a list to be sent, but for its items: user key, partition and what is owed"""


def encode_msgpack(
    model: Model, lists: Sequence[Wanted], rows: NDArray[np.int32], scores: NDArray[np.float32], now_ms: int
) -> list[bytes]:
    """The `lists` with the items in `rows` i32[E, K] and their `scores` f32[E, K], sent at `now_ms`."""
    encode = Encoder(model.version, now_ms).encode
    # head, score, head, score: one after the other, so that a list is a stretch of them
    parts: list[bytes] = [b""] * (2 * rows.size)
    ranked = np.where(scores > -np.inf, rows, 0)  # in the other places is no row of the catalogue
    parts[::2] = map(model.item_heads.__getitem__, ranked.ravel().tolist())
    parts[1::2] = scores.astype(">f4").view("V4").ravel().tolist()
    starts = count(0, 2 * rows.shape[1])
    return [
        encode(key, parts[start : start + 2 * length], length, cause, partition, offset, timestamp_ms, event_id, kept)
        for (key, partition, (cause, offset, timestamp_ms, event_id, kept)), length, start in zip(
            lists, _lengths(scores), starts, strict=False
        )
    ]


def encode_json(
    model: Model, lists: Sequence[Wanted], rows: NDArray[np.int32], scores: NDArray[np.float32], now_ms: int
) -> list[bytes]:
    """Like `encode_msgpack`, as JSON."""
    return [
        recommendation.encode_json(
            Recommendation(
                key.decode(),
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
        for (key, partition, owed), best, values, length in zip(
            lists, rows.tolist(), scores.tolist(), _lengths(scores), strict=True
        )
    ]


def _lengths(scores: NDArray[np.float32]) -> list[int]:
    lengths: list[int] = (scores > -np.inf).sum(axis=1).tolist()
    return lengths
