"""Ranked rows as encoded lists.

Shape letters: E lists, K list length. A score of -inf stands for no item: its place in the list is left out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas import recommendation
from schemas.recommendation import Recommendation
from stream_app.model import Model


def encode_msgpack(
    model: Model, lists: Sequence[Recommendation], rows: NDArray[np.int32], scores: NDArray[np.float32]
) -> list[bytes]:
    """The `lists`, which lack their items, with the items in `rows` i32[E, K] and their `scores` f32[E, K]."""
    k = rows.shape[1]
    heads, packed_scores = model.item_heads, scores.astype(">f4").tobytes()
    encoded: list[bytes] = []
    for at, (list_, best, count) in enumerate(zip(lists, rows.tolist(), _lengths(scores), strict=True)):
        places = range(4 * k * at, 4 * (k * at + count), 4)
        items = [heads[row] + packed_scores[place : place + 4] for row, place in zip(best, places, strict=False)]
        encoded.append(recommendation.encode_with_items(list_, items))
    return encoded


def encode_json(
    model: Model, lists: Sequence[Recommendation], rows: NDArray[np.int32], scores: NDArray[np.float32]
) -> list[bytes]:
    """Like `encode_msgpack`, as JSON."""
    return [
        recommendation.encode_json(
            list_._replace(
                items=[(model.item_ids[row], score) for row, score in zip(best[:count], values, strict=False)]
            )
        )
        for list_, best, values, count in zip(lists, rows.tolist(), scores.tolist(), _lengths(scores), strict=True)
    ]


def _lengths(scores: NDArray[np.float32]) -> list[int]:
    lengths: list[int] = (scores > -np.inf).sum(axis=1).tolist()
    return lengths
