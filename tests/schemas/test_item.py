import json
from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import MAX_VALUE_BYTES
from schemas.item import Item, decode, decode_key, encode, item_hash
from schemas.malformed import Malformed

texts = st.text(st.characters(codec="utf-8"), max_size=30)
items = st.builds(Item, texts, st.booleans(), st.dictionaries(texts, texts, max_size=4))


@given(items)
def test_round_trip(item: Item):
    assert decode(encode(item)) == item


def test_json_is_read():
    value = json.dumps({"title": "Up", "available": False, "attributes": {"year": "2009"}, "more": 1}).encode()
    assert decode(value) == Item("Up", False, {"year": "2009"})


def test_an_item_is_available_unless_it_says_otherwise():
    assert decode(b"{}") == Item("", True, {})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("title", None),
        ("title", 1),
        ("available", 1),
        ("available", "yes"),
        ("available", None),
        ("attributes", None),
        ("attributes", ["a"]),
        ("attributes", {"year": 2009}),
        ("attributes", {b"year": "2009"}),
    ],
)
def test_wrong_types_are_malformed(field: str, wrong: object):
    with pytest.raises(Malformed) as raised:
        decode(msgpack.packb({field: wrong}))
    assert raised.value.field == field


def test_what_is_larger_than_an_event_may_be_is_malformed():
    with pytest.raises(Malformed, match=f"value: must be at most {MAX_VALUE_BYTES} bytes"):
        decode(msgpack.packb({"title": "x" * MAX_VALUE_BYTES}))


@given(st.binary(max_size=100))
def test_random_bytes_are_an_item_or_malformed(value: bytes):
    with suppress(Malformed):
        assert isinstance(decode(value), Item)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=64))
def test_key_is_the_item_id(item_id: str):
    assert decode_key(item_id.encode()) == item_id


@pytest.mark.parametrize("key", [None, b"", b"x" * 257, b"\xff"])
def test_key_must_be_1_to_256_bytes_of_utf8(key: bytes | None):
    with pytest.raises(Malformed) as raised:
        decode_key(key)
    assert raised.value.field == "key"


def test_hash_is_blake2b_64_little_endian():
    assert item_hash("abc") == 0x5995D533D814BBD8
