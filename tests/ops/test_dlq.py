"""What becomes of a dead letter that is read again."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.dead_letters import Letter
from ops.dlq import ADVICE, Dlq, Form, mend
from schemas import event
from schemas.event import Event
from schemas.malformed import Malformed
from schemas.settings import REFUSED, run_command
from stream_app.counters import REASONS

PLAIN = Form.of("", "ms")
SHOP = Form.of("user_id=customer.id,item_id=sku,timestamp=at", "s")
EVENT = Event("anna", "i1", 5_000, event_id="e")


def letter(value: bytes | None, key: bytes | None = b"anna", size: int | None = None) -> Letter:
    stored = len(value or b"")
    return Letter(
        "t",
        2,
        7,
        "f: rule, got 1, got 2",
        9_000,
        8_000,
        key,
        value,
        4,
        stored if size is None else size,
        stored,
        (2, 0),
        "id",
    )


def test_the_reason_is_field_rule_and_value():
    found = letter(b"")
    assert (found.field, found.rule, found.origin) == ("f", "rule", "2:7")


def test_an_event_that_can_be_read_now_is_sent_as_it_was_received():
    value = event.encode_json(EVENT)
    assert mend(letter(value), PLAIN, PLAIN)[1:] == (b"anna", value)


def test_an_event_without_a_time_gets_that_of_its_record():
    value = b'{"user_id": "anna", "item_id": "i1"}'
    _, key, sent = mend(letter(value), PLAIN, PLAIN)
    assert sent is not None
    assert event.decode(sent, key, 0) == Event("anna", "i1", 8_000)


def test_a_letter_of_another_form_is_sent_in_the_form_that_workers_read():
    value = SHOP.codec.encode(EVENT)
    with pytest.raises(Malformed):
        mend(letter(value), PLAIN, PLAIN)
    _, key, sent = mend(letter(value), SHOP, PLAIN)
    assert sent is not None
    assert event.decode(sent, key, 0) == EVENT


@pytest.mark.parametrize("key", [None, b"", b"bert", b"\xff", b"x" * 1024])
@pytest.mark.parametrize("form", [PLAIN, SHOP], ids=["plain", "shop"])
def test_a_wrong_key_is_taken_from_the_value_only_where_that_is_wished(key: bytes | None, form: Form):
    wrong = letter(form.codec.encode(EVENT), key)
    with pytest.raises(Malformed):
        mend(wrong, form, form)
    assert mend(wrong, form, form, rekey=True).key == b"anna"


@pytest.mark.parametrize("rekey", [True, False])
def test_what_was_cut_cannot_be_sent_again(rekey: bool):
    with pytest.raises(Malformed, match=r"was cut .* got '3 of 600000 bytes'"):
        mend(letter(b"{..", size=600_000), PLAIN, PLAIN, rekey=rekey)


def test_a_wish_to_be_forgotten_stays_one():
    assert mend(letter(None), PLAIN, PLAIN)[1:] == (b"anna", None)
    with pytest.raises(Malformed):
        mend(letter(None, b"\xff"), PLAIN, PLAIN, rekey=True)


@given(st.binary(max_size=40) | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps({"user_id": x})))
def test_whatever_a_letter_holds_it_is_an_event_or_malformed(value: bytes | str):
    raw = value if isinstance(value, bytes) else value.encode()
    for rekey in (True, False):
        try:
            _, key, sent = mend(letter(raw), PLAIN, PLAIN, rekey=rekey)
        except Malformed:
            continue
        assert sent is not None
        assert event.decode(sent, key, 0)


def test_there_is_advice_for_whatever_can_be_wrong():
    assert set(ADVICE) == set(REASONS)


@pytest.mark.parametrize("wrong", ["--since=2 hours", "--only=2-7", "--map=user_id", "--limit=0", "mend"])
def test_a_wrong_option_is_refused_in_one_line(wrong: str, capsys: pytest.CaptureFixture[str]):
    assert run_command("ops dlq", Dlq, [wrong]) == REFUSED
    assert len(capsys.readouterr().err.splitlines()) == 1
