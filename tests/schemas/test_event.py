import json
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.event import (
    DEFAULT_TYPE,
    MAX_ID_BYTES,
    MAX_TIMESTAMP_MS,
    MAX_VALUE_BYTES,
    Event,
    decode,
    decode_key,
    encode,
    encode_json,
    event_id_hash,
    event_kind,
)
from schemas.malformed import Malformed

FIELDS = {"user_id": "u", "item_id": "i", "timestamp": 5, "event_type": "view", "event_id": "e"}
IDS = ("user_id", "item_id", "event_type", "event_id")

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_ID_BYTES).filter(
    lambda text: len(text.encode()) <= MAX_ID_BYTES
)
events = st.builds(Event, ids, ids, st.integers(0, MAX_TIMESTAMP_MS), ids, st.none() | ids)
both_packings = pytest.mark.parametrize("pack", [msgpack.packb, lambda fields: json.dumps(fields).encode()])


def decode_fields(fields: dict[str, Any], key: bytes = b"u") -> Event:
    return decode(msgpack.packb(fields), key, 0)


def refused(field: str, value: bytes, key: bytes | None = b"u", record_timestamp_ms: int = 0) -> str:
    with pytest.raises(Malformed) as raised:
        decode(value, key, record_timestamp_ms)
    assert raised.value.field == field
    return str(raised.value)


@given(events)
def test_msgpack_round_trip(event: Event):
    assert decode(encode(event), event.user_id.encode(), 0) == event


@given(events)
def test_json_round_trip(event: Event):
    assert decode(encode_json(event), event.user_id.encode(), 0) == event


@both_packings
def test_all_fields_are_read(pack: Any):
    assert decode(pack(FIELDS), b"u", 0) == Event("u", "i", 5, "view", "e")


@both_packings
def test_missing_fields_get_defaults(pack: Any):
    assert decode(pack({"user_id": "u", "item_id": "i"}), b"u", 77) == Event("u", "i", 77, DEFAULT_TYPE, None)


@both_packings
def test_null_is_as_good_as_missing(pack: Any):
    nulls = {"user_id": "u", "item_id": "i", "timestamp": None, "event_type": None, "event_id": None}
    assert decode(pack(nulls), b"u", 77) == Event("u", "i", 77, DEFAULT_TYPE, None)


def test_unknown_fields_are_ignored():
    assert decode_fields(FIELDS | {"price": 3.5, "more": {"a": [1]}}) == Event("u", "i", 5, "view", "e")


def test_defaults_are_not_written():
    assert msgpack.unpackb(encode(Event("u", "i", 5))) == {"user_id": "u", "item_id": "i", "timestamp": 5}


@pytest.mark.parametrize("field", ["user_id", "item_id"])
def test_required_fields_are_required(field: str):
    refused(field, msgpack.packb({name: value for name, value in FIELDS.items() if name != field}))


@pytest.mark.parametrize("field", IDS)
@pytest.mark.parametrize("wrong", [1, True, 1.5, b"u", ["u"], {"u": "u"}])
def test_ids_must_be_strings(field: str, wrong: object):
    refused(field, msgpack.packb(FIELDS | {field: wrong}))


@pytest.mark.parametrize("field", IDS)
@pytest.mark.parametrize("wrong", ["", "x" * 257, "é" * 128 + "x", "€" * 86, "𝄞" * 65])
def test_ids_must_have_1_to_256_bytes(field: str, wrong: str):
    refused(field, msgpack.packb(FIELDS | {field: wrong}))


@pytest.mark.parametrize("longest", ["x" * 256, "é" * 128, "𝄞" * 64])
def test_ids_of_256_bytes_are_accepted(longest: str):
    fields = dict.fromkeys(IDS, longest)
    assert decode_fields(fields, longest.encode()) == Event(longest, longest, 0, longest, longest)


@pytest.mark.parametrize("field", IDS)
def test_lone_surrogate_in_json_is_refused(field: str):
    refused(field, json.dumps(FIELDS | {field: "\ud800"}).encode())


@pytest.mark.parametrize("wrong", [-1, MAX_TIMESTAMP_MS + 1, 1 << 63, 1.0, "5", True, [5]])
def test_timestamp_must_be_an_integer_that_a_state_record_can_hold(wrong: object):
    refused("timestamp", msgpack.packb(FIELDS | {"timestamp": wrong}))


@pytest.mark.parametrize("timestamp_ms", [0, MAX_TIMESTAMP_MS])
def test_first_and_last_timestamps_are_accepted(timestamp_ms: int):
    assert decode_fields(FIELDS | {"timestamp": timestamp_ms}).timestamp_ms == timestamp_ms


def test_record_timestamp_is_checked_when_it_stands_in():
    refused("timestamp", msgpack.packb({"user_id": "u", "item_id": "i"}), record_timestamp_ms=-1)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_without_a_number_is_refused(constant: str):
    refused("value", b'{"user_id":"u","item_id":"i","timestamp":%s}' % constant.encode())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_msgpack_float_that_is_no_number_is_refused(number: float):
    refused("timestamp", msgpack.packb(FIELDS | {"timestamp": number}))


def test_endless_json_number_is_refused():
    refused("value", b'{"user_id":"u","item_id":"i","timestamp":%s}' % (b"9" * 60_000))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"{}x",
        b'{"user_id":"\xff"}',
        b'[{"user_id":"u"}]',
        b"\xc1",
        msgpack.packb(["u", "i"]),
        msgpack.packb("u"),
        msgpack.packb(None),
        msgpack.packb(FIELDS) + b"\x00",
        msgpack.packb(FIELDS)[:-1],
        b"\x81\xa7user_id\xa1\xff",
        msgpack.packb({1: 2}),
    ],
)
def test_value_must_be_one_map(value: bytes):
    refused("value", value)


def test_largest_value_is_accepted_and_one_byte_more_is_not():
    padding = MAX_VALUE_BYTES - len(json.dumps(FIELDS | {"padding": ""}))
    assert decode(json.dumps(FIELDS | {"padding": "x" * padding}).encode(), b"u", 0).item_id == "i"
    refused("value", json.dumps(FIELDS | {"padding": "x" * (padding + 1)}).encode())


@pytest.mark.parametrize("depth", [10, 500, 995, 1009, 1023, 1024, 2000, 30_000])
def test_deep_nesting_is_malformed(depth: int):
    for value in (
        b"\x82\xa7user_id\xa1u\xa7item_id" + b"\x91" * depth + b"\x01",
        b'{"user_id":"u","item_id":' + b"[" * depth + b"]" * depth + b"}",
    ):
        with pytest.raises(Malformed):
            decode(value, b"u", 0)


@pytest.mark.parametrize("key", [None, b"", b"x" * 257, b"\xff", b"\xed\xa0\x80"])
def test_key_must_be_1_to_256_bytes_of_utf8(key: bytes | None):
    refused("key", msgpack.packb(FIELDS), key)


def test_key_must_be_the_user():
    assert "b'v'" not in refused("user_id", msgpack.packb(FIELDS), b"v")


@given(ids)
def test_key_is_decoded(user_id: str):
    assert decode_key(user_id.encode()) == user_id


@given(st.binary(max_size=200), st.none() | st.binary(max_size=8), st.integers())
def test_random_bytes_are_nothing_but_malformed(value: bytes, key: bytes | None, record_timestamp_ms: int):
    with pytest.raises(Malformed):
        decode(value, key, record_timestamp_ms)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, json_values)))
@example({"item_id": "\ud800"})
def test_any_json_object_is_an_event_or_malformed(fields: dict[str, Any]):
    with suppress(Malformed):
        event = decode(json.dumps({"item_id": "i", **fields, "user_id": "u"}).encode(), b"u", 0)
        assert decode(encode(event), b"u", 0) == event


@given(json_values)
def test_what_was_wrong_can_be_sent_on_as_utf8(value: object):
    with pytest.raises(Malformed) as raised:
        decode(json.dumps({"user_id": "u", "item_id": [value]}).encode(), b"u", 0)
    assert str(raised.value).encode()


@given(events, st.data())
def test_a_damaged_event_is_an_event_or_malformed(event: Event, data: st.DataObject):
    value = bytearray(encode(event))
    value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(value), event.user_id.encode(), 0)
    except Malformed:
        return
    assert decoded.user_id == event.user_id


def test_event_id_hash_is_blake2b_64_little_endian():
    assert event_id_hash("abc") == 0x5995D533D814BBD8


def test_default_type_is_kind_0_and_no_other_is():
    assert event_kind(DEFAULT_TYPE) == 0
    assert {event_kind(f"type {n}") for n in range(5000)} == set(range(1, 256))
