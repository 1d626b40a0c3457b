from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.recommendation import Cause, Recommendation, decode
from stream_app import lists
from tests.stream_app.tiny_model import TinyModel

ITEMS = ["a", "é", "x" * 256, "i3", "i4"]
MODEL = TinyModel(1, ITEMS).load()
both_encodings = pytest.mark.parametrize("encode", [lists.encode_msgpack, lists.encode_json])


def owed(offset: int) -> Recommendation:
    return Recommendation("u", [], 1, Cause.EVENT, 0, offset, 5, None, 3, 9)


@st.composite
def rankings(draw: st.DrawFn) -> list[list[tuple[int, float]]]:
    """For each list, rows with scores, best first."""
    pairs = st.tuples(st.integers(0, len(ITEMS) - 1), st.floats(width=32, allow_nan=False, allow_infinity=False))
    return [sorted(ranking, key=lambda pair: -pair[1]) for ranking in draw(st.lists(st.lists(pairs, max_size=7)))]


@both_encodings
@given(rankings(), st.integers(0, 3))
def test_lists_hold_their_ranked_items_and_nothing_for_scores_of_minus_infinity(
    encode: Callable[..., list[bytes]], ranked: list[list[tuple[int, float]]], spare: int
):
    k = max(map(len, ranked), default=0) + spare
    rows, scores = np.zeros((len(ranked), k), np.int32), np.full((len(ranked), k), -np.inf, np.float32)
    for at, ranking in enumerate(ranked):
        for place, (row, score) in enumerate(ranking):
            rows[at, place], scores[at, place] = row, score
    encoded = encode(MODEL, [owed(offset) for offset in range(len(ranked))], rows, scores)
    assert [decode(value) for value in encoded] == [
        owed(offset)._replace(items=[(ITEMS[row], score) for row, score in ranking])
        for offset, ranking in enumerate(ranked)
    ]
