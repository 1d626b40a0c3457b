"""Whatever bytes stand on a topic, a decoder gives what it is for, or Malformed: nothing else is ever raised."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas import event, item, recommendation, state
from schemas.artefact import decode_manifest
from schemas.field_mapping import FieldMapping, TimeUnit
from schemas.malformed import Malformed

SHOP = "user_id=customer.id,item_id=sku,timestamp=at.time,event_id=trace"
UNITS: tuple[TimeUnit, ...] = ("ns", "iso")
NAMES = ["user_id", "item_id", "timestamp", "event_type", "event_id", "customer", "id", "sku", "at", "time", "trace"]
NAMES += ["title", "available", "attributes", "items", "score", "model", "cause", "event", "partition", "offset"]
NAMES += ["history_length", "emitted_at", "format", "version", "path", "files", "width", "state"]
of_shop, of_shop_in_text = (FieldMapping.parse(SHOP, unit).codec.decode for unit in UNITS)
DECODERS: dict[str, Callable[[bytes], object]] = {
    "event": lambda value: event.decode(value, b"u", 5),
    "event, mapped": lambda value: of_shop(value, b"u", 5),
    "event, mapped, time as text": lambda value: of_shop_in_text(value, b"u", 5),
    "item": item.decode,
    "list": recommendation.decode,
    "state": state.decode,
    "manifest": decode_manifest,
    "key": event.decode_key,
    "item key": item.decode_key,
}

scalars = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.just("u")
times = st.sampled_from(["2024-05-31T12:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2024-W01"])
texts = st.text(st.characters(codec="utf-8"), max_size=20) | times


def maps(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(NAMES) | st.text(st.characters(codec="utf-8"), max_size=3)
    return st.dictionaries(
        names,
        st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)),
        max_size=8,
    )


as_msgpack = maps(scalars | texts | st.binary(max_size=5)).map(msgpack.packb)
as_json = maps(scalars | texts | st.text(max_size=5)).map(lambda fields: json.dumps(fields).encode())
cut = st.tuples(as_msgpack | as_json, st.integers(0, 300)).map(lambda pair: pair[0][: pair[1]])


@pytest.mark.parametrize("decoder", DECODERS)
@settings(max_examples=50)
@given(st.binary(max_size=300) | as_msgpack | as_json | cut)
@example(b"\x81\xa4time\xc7\x0c\xff" + b"\xff" * 12)  # a msgpack timestamp with too many nanoseconds
@example(b'{"user_id":"u","item_id":"i","timestamp":1e999}')
@example(b'{"at":{"time":1e308},"customer":{"id":"u"},"sku":' + b"9" * 4000 + b"}")
@example(b'{"at":{"time":"\\ud800"},"customer":{"id":"u"},"sku":"i"}')
@example(b"{" * 60_000)
@example(b'{"title":' + b"[" * 60_000)
@example(b"\x91" * 60_000)
def test_a_decoder_raises_nothing_but_malformed(decoder: str, value: bytes):
    with suppress(Malformed):
        DECODERS[decoder](value)
