import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import Event, encode, encode_json, event_id_hash, event_kind
from schemas.item import item_hash
from stream_app.advance import Change
from stream_app.broker import DeadLetter, Record
from stream_app.intake import take_in


def record(offset: int, user: str = "u", **fields: str) -> Record:
    return Record(offset, user.encode(), encode(Event(user, "i", 10 * offset, **fields)), 7)


def rubbish(offset: int) -> Record:
    return Record(offset, b"u", b"\xc1", 7)


def test_an_event_becomes_a_change_of_its_user():
    value = encode_json(Event("ü", "item", 123, "view", "e1"))
    expected = Change(
        5,
        123,
        item_hash("item").to_bytes(8, "little"),
        event_kind("view"),
        event_id_hash("e1").to_bytes(8, "little"),
        "e1",
    )
    assert take_in([Record(5, "ü".encode(), value, 7)], 0).changes == {"ü".encode(): [expected]}


def test_an_event_without_an_id_has_no_hash_of_it():
    ((change,),) = take_in([record(0)], 0).changes.values()
    assert (change.event_id, change.event_id_hash) == (None, b"")


def test_a_null_value_is_the_wish_to_be_forgotten():
    assert take_in([Record(4, b"u", None, 70)], 0).changes == {b"u": [Change(4, 70)]}


def test_a_users_changes_stay_in_offset_order():
    intake = take_in([record(0, "u"), record(1, "v"), record(2, "u"), Record(3, b"v", None, 0)], 0)
    offsets = {user: [change.offset for change in changes] for user, changes in intake.changes.items()}
    assert offsets == {b"u": [0, 2], b"v": [1, 3]}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (Record(1, b"u", b"\xc1", 7), "value: must be a msgpack map or a JSON object"),
        (Record(1, None, encode(Event("u", "i", 1)), 7), "key: must be the user id, got None"),
        (Record(1, b"v", encode(Event("u", "i", 1)), 7), "user_id: must equal the record's key 'v', got 'u'"),
        (Record(1, None, None, 7), "key: must be the user id, got None"),
        (Record(1, b"\xff", None, 7), "key: must be UTF-8"),
        (Record(1, b"u", b"{}", 7), "user_id: must be a string, got None"),
    ],
)
def test_what_cannot_be_read_is_a_dead_letter_with_its_reason_and_stops_nothing(broken: Record, reason: str):
    intake = take_in([record(0), broken, record(2)], 0)
    (letter,) = intake.dead_letters
    assert letter.record == broken
    assert letter.reason.startswith(reason)
    assert [change.offset for change in intake.changes[b"u"]] == [0, 2]
    assert intake.position == 3


def test_records_below_the_position_are_done_and_neither_applied_nor_dead_lettered_again():
    intake = take_in([record(3), rubbish(4), record(5)], 5)
    assert [change.offset for change in intake.changes[b"u"]] == [5]
    assert intake.dead_letters == []


def test_the_position_never_goes_back():
    assert take_in([record(3)], 9).position == 9


def test_no_records_leave_the_position():
    assert take_in([], 9) == ({}, [], 9)


def test_a_skipped_record_is_dead_lettered_unread():
    intake = take_in([record(0), record(1)], 0, {1})
    assert intake.dead_letters == [DeadLetter(record(1), "offset", "offset: is skipped by a setting, got 1")]
    assert [change.offset for change in intake.changes[b"u"]] == [0]
    assert intake.position == 2


@given(st.sets(st.integers(0, 30)).map(sorted), st.integers(0, 30), st.sets(st.integers(0, 30)))
def test_every_record_from_the_position_on_is_a_change_or_a_dead_letter(
    offsets: list[int], position: int, skipped: set[int]
):
    records = [rubbish(offset) if offset % 5 == 0 else record(offset) for offset in offsets]
    intake = take_in(records, position, skipped)
    changed = [change.offset for changes in intake.changes.values() for change in changes]
    dead = [letter.record.offset for letter in intake.dead_letters]
    assert sorted(changed + dead) == [offset for offset in offsets if offset >= position]
    assert set(dead) == {offset for offset in offsets if offset >= position and (offset % 5 == 0 or offset in skipped)}
    assert intake.position == max([position, *(offset + 1 for offset in offsets)])
