"""Events of producers with a schema of their own."""

import json
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import event
from schemas.event import MAX_TIMESTAMP_MS, Event
from schemas.field_mapping import FieldMapping, TimeUnit, milliseconds
from schemas.malformed import Malformed
from schemas.settings import DONE, REFUSED, Command, Settings, run

SHOP = "user_id=customer.id,item_id=sku,timestamp=ts,event_id=meta.trace.id"
ORDER = {"customer": {"id": "ann", "name": "Ann"}, "sku": "i", "ts": 5, "meta": {"trace": {"id": "e"}}, "price": 3.5}

names = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3).map(".".join)
ids = st.text(min_size=1, max_size=60)
events = st.builds(Event, ids, ids, st.integers(0, MAX_TIMESTAMP_MS), ids, st.none() | ids)


def decode(own: dict[str, Any], mapping: str = SHOP, unit: TimeUnit = "ms", key: bytes = b"ann") -> Event:
    return FieldMapping.parse(mapping, unit).codec.decode(json.dumps(own).encode(), key, 77)


@pytest.mark.parametrize("pack", [msgpack.packb, lambda own: json.dumps(own).encode()])
def test_fields_are_found_by_their_own_names_and_inside_others(pack: Any):
    assert FieldMapping.parse(SHOP).codec.decode(pack(ORDER), b"ann", 0) == Event("ann", "i", 5, event_id="e")


def test_a_field_that_is_not_named_keeps_its_name():
    assert decode(ORDER | {"event_type": "buy"}).event_type == "buy"


def test_the_records_time_stands_in_for_a_missing_one():
    assert decode({"customer": {"id": "ann"}, "sku": "i"}).timestamp_ms == 77


@pytest.mark.parametrize("customer", [{}, None, "ann", ["ann"], {"name": "ann"}])
def test_a_field_that_is_not_there_is_missing(customer: object):
    with pytest.raises(Malformed, match="user_id: must be a string, got None"):
        decode(ORDER | {"customer": customer})


def test_a_number_as_an_id_is_its_text_and_so_must_the_key_be():
    own = {"customer": {"id": 42}, "sku": 7, "meta": {"trace": {"id": -1}}}
    assert decode(own, key=b"42") == Event("42", "7", 77, event_id="-1")
    with pytest.raises(Malformed, match="user_id: must equal the record's key"):
        decode(own, key=b"43")


@pytest.mark.parametrize("wrong", [True, 1.5, ["i"], {"i": 1}])
def test_nothing_else_becomes_an_id(wrong: object):
    with pytest.raises(Malformed, match="item_id: must be a string"):
        decode(ORDER | {"sku": wrong})


@pytest.mark.parametrize(
    ("time", "unit"),
    [
        (1_700_000_000.123, "s"),
        (1_700_000_000_123, "ms"),
        (1_700_000_000_123_400, "us"),
        (1_700_000_000_123_400_000, "ns"),
        ("2023-11-14T22:13:20.123Z", "iso"),
        ("2023-11-14 22:13:20.123", "iso"),
        ("2023-11-14T23:13:20.123+01:00", "iso"),
    ],
)
def test_times_in_any_unit_become_milliseconds(time: object, unit: TimeUnit):
    assert decode(ORDER | {"ts": time}, unit=unit).timestamp_ms == 1_700_000_000_123


@pytest.mark.parametrize("unit", get_args(TimeUnit))
@pytest.mark.parametrize("wrong", [True, [5], -1, -1.5, float("nan"), float("inf"), 10**400, "", "soon", "1969-12-31"])
def test_what_is_no_time_is_malformed(wrong: object, unit: TimeUnit):
    with pytest.raises(Malformed, match=r"timestamp: must be a.*from 1970 to 2106"):
        milliseconds(wrong, unit)


@pytest.mark.parametrize("number", ["5", "1700000000"])
def test_a_number_in_quotes_is_no_number(number: str):
    with pytest.raises(Malformed, match="timestamp: must be a number of seconds"):
        milliseconds(number, "s")


def test_the_last_moment_and_not_one_after_it():
    assert milliseconds(MAX_TIMESTAMP_MS / 1000, "s") == MAX_TIMESTAMP_MS
    with pytest.raises(Malformed):
        milliseconds(MAX_TIMESTAMP_MS + 1, "ms")


@given(
    events,
    st.dictionaries(st.sampled_from(["user_id", "item_id", "timestamp"]), names),
    st.sampled_from(get_args(TimeUnit)),
)
def test_what_is_written_is_read_again(original: Event, own_names: dict[str, str], unit: TimeUnit):
    try:
        codec = FieldMapping(own_names, unit).codec
    except ValueError:  # two fields in one place
        return
    assert codec.decode(codec.encode(original), original.user_id.encode(), 0) == original


def test_nested_fields_are_written_side_by_side():
    mapping = FieldMapping.parse("user_id=from.user,item_id=from.item", "iso")
    assert msgpack.unpackb(mapping.codec.encode(Event("u", "i", 0))) == {
        "from": {"user": "u", "item": "i"},
        "timestamp": "1970-01-01T00:00:00.000+00:00",
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("user_id", "must be FIELD=NAME.*wrong at 'user_id'"),
        ("user_id=a,user_id=b", "each field once; wrong at 'user_id=b'"),
        ("user=a", "no field 'user', there are: user_id, item_id"),
        ("user_id=", "user_id must be the name of a field"),
        ("user_id=a..b", "user_id must be the name of a field, or several with dots between"),
        ("user_id=a,item_id=a", "user_id is a, then item_id cannot be a"),
        ("user_id=a,item_id=a.b", "user_id is a, then item_id cannot be a.b"),
        ("user_id=item_id", "user_id is item_id, then item_id cannot be item_id"),
    ],
)
def test_a_wrong_mapping_is_refused(text: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        FieldMapping.parse(text)


class Show(Command):
    """Show nothing."""

    def run(self) -> int:
        return DONE


def test_a_wrong_mapping_on_the_command_line_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]):
    assert run("x", {"show": Show}, ["show", "--event-fields", "user=a"]) == REFUSED
    line = capsys.readouterr().err
    assert line.startswith("x show: event_fields: no field 'user', there are: user_id, ")
    assert line.endswith(", got 'user=a'\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"event_fields": "user_id=u"}, Event("ann", "i", 5)),
        ({"event_fields": "user_id=u", "event_time_unit": "s"}, Event("ann", "i", 5000)),
    ],
)
def test_the_settings_say_how_events_are_read(settings: dict[str, str], expected: Event):
    decode = Settings(_env_file=None, **settings).event_codec.decode
    assert decode(b'{"u": "ann", "item_id": "i", "timestamp": 5}', b"ann", 0) == expected


def test_without_settings_events_are_read_by_the_contract_itself():
    assert Settings(_env_file=None).event_codec == (event.decode, event.encode)
