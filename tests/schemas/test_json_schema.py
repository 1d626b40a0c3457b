"""The JSON Schemas are current, and say what the code says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas import event, recommendation
from schemas.event import MAX_ID_BYTES, MAX_TIMESTAMP_MS, Event
from schemas.json_schema import FOLDER, schemas, text
from schemas.malformed import Malformed
from schemas.recommendation import Cause, Recommendation

EVENT, LIST = (Draft202012Validator(schema) for schema in schemas().values())

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_ID_BYTES)
near_ids = ids | st.sampled_from(["", "x" * 256, "x" * 257, "é" * 128, "é" * 129])
near_times = st.integers(-2, 2) | st.integers(MAX_TIMESTAMP_MS - 2, MAX_TIMESTAMP_MS + 2) | st.floats(-1, 2)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | near_ids,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=3,
)
near_events = st.fixed_dictionaries(
    {"item_id": near_ids | anything},
    optional={
        "timestamp": st.none() | near_times | anything,
        "event_type": st.none() | near_ids | anything,
        "event_id": st.none() | near_ids | anything,
    },
)
lists = st.builds(
    Recommendation,
    ids,
    st.lists(st.tuples(ids, st.floats(width=32, allow_nan=False, allow_infinity=False)), max_size=3),
    st.integers(0, 1 << 63),
    st.sampled_from(Cause),
    *[st.integers(0, 1 << 63)] * 3,
    st.none() | ids,
    *[st.integers(0, 1 << 63)] * 2,
)


@pytest.mark.parametrize("name", schemas())
def test_the_files_are_current(name: str):
    assert (FOLDER / name).read_text() == text(schemas()[name]), "run python -m schemas.json_schema"


@pytest.mark.parametrize("name", schemas())
def test_the_files_are_schemas(name: str):
    Draft202012Validator.check_schema(json.loads((FOLDER / name).read_text()))


@given(near_events)
def test_an_event_is_decoded_if_and_only_if_the_schema_accepts_it_but_for_what_it_cannot_say(fields: dict[str, Any]):
    fields = {"user_id": "u", **fields}
    accepted = EVENT.is_valid(fields)
    assert decodes(event.decode, json.dumps(fields).encode(), b"u", 0) == (accepted and not beyond_json_schema(fields))


@given(anything, st.booleans())
def test_a_user_is_decoded_if_and_only_if_the_schema_accepts_it(user_id: object, there: bool):
    fields = {"item_id": "i"} | ({"user_id": user_id} if there else {})
    key = user_id.encode() if isinstance(user_id, str) else b"u"
    accepted = EVENT.is_valid(fields)
    assert decodes(event.decode, json.dumps(fields).encode(), key, 0) == (accepted and not beyond_json_schema(fields))


@given(st.builds(Event, ids, ids, st.integers(0, MAX_TIMESTAMP_MS), ids, st.none() | ids))
def test_what_is_encoded_is_accepted(made: Event):
    assert EVENT.is_valid(json.loads(event.encode_json(made)))


@given(lists)
def test_every_list_is_accepted(made: Recommendation):
    assert LIST.is_valid(json.loads(recommendation.encode_json(made)))


@given(lists, st.data())
def test_a_damaged_list_is_decoded_if_and_only_if_the_schema_accepts_it_but_for_what_it_cannot_say(
    made: Recommendation, data: st.DataObject
):
    fields = json.loads(recommendation.encode_json(made))
    parts = [fields, fields["event"], *fields["items"]]
    damaged = data.draw(st.sampled_from(parts))
    name = data.draw(st.sampled_from(sorted(damaged)))
    if data.draw(st.booleans()):
        del damaged[name]
    else:
        damaged[name] = data.draw(anything)
    fraction_decides = name == "score" or isinstance(damaged.get(name), float)
    accepted = LIST.is_valid(fields)
    decoded = decodes(recommendation.decode, json.dumps(fields).encode())
    assert accepted if decoded else not accepted or fraction_decides


def decodes(decode: Any, *arguments: object) -> bool:
    try:
        decode(*arguments)
    except Malformed:
        return False
    return True


def beyond_json_schema(fields: dict[str, Any]) -> bool:
    """Whether an id has too many bytes, or a whole number is written with a fraction."""
    ids = [value for value in fields.values() if isinstance(value, str)]
    return any(len(value.encode()) > MAX_ID_BYTES for value in ids) or isinstance(fields.get("timestamp"), float)
