from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.recommendation import Cause, Recommendation, decode
from stream_app import lists
from stream_app.advance import Owed
from stream_app.lists import Wanted
from tests.stream_app.tiny_model import TinyModel

ITEMS = ["a", "é", "x" * 256, "i3", "i4"]
MODEL = TinyModel(1, ITEMS).load()
both_encodings = pytest.mark.parametrize("encode", [lists.encode_msgpack, lists.encode_json])


def wanted(offset: int) -> Wanted:
    return (b"u", 2, Owed(Cause.EVENT, offset, 5, None, 3))


def sent(offset: int, items: list[tuple[str, float]]) -> Recommendation:
    return Recommendation("u", items, 1, Cause.EVENT, 2, offset, 5, None, 3, 9)


@st.composite
def rankings(draw: st.DrawFn) -> list[list[tuple[int, float]]]:
    """For each list, rows with scores, best first."""
    pairs = st.tuples(st.integers(0, len(ITEMS) - 1), st.floats(width=32, allow_nan=False, allow_infinity=False))
    return [sorted(ranking, key=lambda pair: -pair[1]) for ranking in draw(st.lists(st.lists(pairs, max_size=20)))]


@both_encodings
@given(rankings(), st.integers(0, 3))
def test_lists_hold_their_ranked_items_and_nothing_for_scores_of_minus_infinity(
    encode: Callable[..., list[bytes]], ranked: list[list[tuple[int, float]]], spare: int
):
    k = max(map(len, ranked), default=0) + spare
    rows, scores = np.full((len(ranked), k), 99, np.int32), np.full((len(ranked), k), -np.inf, np.float32)
    for at, ranking in enumerate(ranked):
        for place, (row, score) in enumerate(ranking):
            rows[at, place], scores[at, place] = row, score
    encoded = encode(MODEL, [wanted(offset) for offset in range(len(ranked))], rows, scores, 9)
    assert [decode(value) for value in encoded] == [
        sent(offset, [(ITEMS[row], score) for row, score in ranking]) for offset, ranking in enumerate(ranked)
    ]


@pytest.mark.parametrize("user_id", ["u", "é" * 15, "u" * 31, "u" * 32, "é" * 127, "u" * 255, "u" * 256])
def test_a_user_id_of_any_length_arrives(user_id: str):
    owed = Owed(Cause.REPLAY, 70_000, 1764000000000, "e", 300)
    scores = np.array([[1.5, -0.25]], np.float32)
    (value,) = lists.encode_msgpack(MODEL, [(user_id.encode(), 2, owed)], np.array([[3, 1]], np.int32), scores, 9)
    items = [("i3", 1.5), ("é", -0.25)]
    assert decode(value) == Recommendation(user_id, items, 1, Cause.REPLAY, 2, 70_000, 1764000000000, "e", 300, 9)
