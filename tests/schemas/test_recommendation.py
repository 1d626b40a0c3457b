import json
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.malformed import Malformed
from schemas.recommendation import Cause, Recommendation, decode, encode, encode_json

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
scores = st.floats(allow_nan=False, allow_infinity=False, width=32)
counts = st.integers(0, (1 << 63) - 1)
recommendations = st.builds(
    Recommendation,
    ids,
    st.lists(st.tuples(ids, scores), max_size=5),
    counts,
    st.sampled_from(Cause),
    counts,
    counts,
    counts,
    st.none() | ids,
    counts,
    counts,
)
LIST = Recommendation("u", [("i", 0.5), ("j", -1.0)], 3, Cause.REPLAY, 1, 42, 1700, "e", 100, 1800)
FIELDS = {
    "user_id": "u",
    "items": [{"item_id": "i", "score": 0.5}, {"item_id": "j", "score": -1.0}],
    "model": 3,
    "cause": "replay",
    "event": {"partition": 1, "offset": 42, "timestamp": 1700, "event_id": "e"},
    "history_length": 100,
    "emitted_at": 1800,
}


@given(recommendations)
def test_msgpack_round_trip(recommendation: Recommendation):
    assert decode(encode(recommendation)) == recommendation


@given(recommendations)
def test_json_round_trip(recommendation: Recommendation):
    assert decode(encode_json(recommendation)) == recommendation


def test_fields_are_those_of_the_contract():
    assert msgpack.unpackb(encode(LIST)) == FIELDS
    assert json.loads(encode_json(LIST)) == FIELDS


def test_msgpack_scores_take_single_precision():
    longer = encode(LIST._replace(items=[*LIST.items, ("k", 0.1)]))
    score = msgpack.unpackb(longer)["items"][2]["score"]
    assert score == float(np.float32(0.1)) != 0.1


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_json_has_no_infinite_score(score: float):
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_json(LIST._replace(items=[("i", score)]))


@pytest.mark.parametrize("field", sorted(FIELDS))
@pytest.mark.parametrize("wrong", [None, True, 1.5, b"u", "other"])
def test_wrong_or_missing_fields_are_malformed(field: str, wrong: Any):
    if field == "user_id" and wrong == "other":
        wrong = 1
    with pytest.raises(Malformed) as raised:
        decode(msgpack.packb(FIELDS | {field: wrong}))
    assert raised.value.field == field


@pytest.mark.parametrize("field", ["partition", "offset", "timestamp", "event_id"])
def test_wrong_fields_of_the_event_are_named(field: str):
    with pytest.raises(Malformed) as raised:
        decode(msgpack.packb(FIELDS | {"event": FIELDS["event"] | {field: 1.5}}))
    assert raised.value.field == f"event.{field}"


@pytest.mark.parametrize(
    ("field", "item"),
    [("items", "i"), ("item_id", {"score": 1.0}), ("score", {"item_id": "i"}), ("score", {"item_id": "i", "score": 1})],
)
def test_wrong_items_are_malformed(field: str, item: object):
    with pytest.raises(Malformed) as raised:
        decode(msgpack.packb(FIELDS | {"items": [item]}))
    assert raised.value.field == field


@given(st.binary(max_size=100))
def test_random_bytes_are_nothing_but_malformed(value: bytes):
    with pytest.raises(Malformed):
        decode(value)
