from struct import pack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.malformed import Malformed
from schemas.state import FORGOTTEN, NO_MODEL, StateRecord, decode, decode_last_offset, encode, is_whole, kept_length

U64 = st.integers(0, (1 << 64) - 1)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)


@st.composite
def records(draw: st.DrawFn) -> StateRecord:
    def array(item_bytes: int, length: int) -> bytes:
        return draw(st.binary(min_size=item_bytes * length, max_size=item_bytes * length))

    n, m = draw(st.integers(0, 20)), draw(st.integers(0, 32))
    s, d = draw(st.sampled_from([(0, 0), (8, 4), (3, 5)]))
    return StateRecord(
        draw(U64),
        draw(I64),
        draw(I64),
        draw(U64),
        array(8, n),
        array(4, n),
        array(1, n),
        array(8, m),
        array(4, s),
        array(4, d),
        draw(st.integers(0, 255)),
    )


EXAMPLE = StateRecord(
    model_version=0x0102030405060708,
    last_offset=42,
    last_time_ms=-1,
    events=7,
    items=pack("<2Q", 11, 12),
    times=pack("<2I", 21, 22),
    kinds=bytes((0, 9)),
    event_ids=pack("<Q", 31),
    state=pack("<3f", 1.0, 2.0, 3.0),
    query=pack("<1f", 4.0),
    flags=FORGOTTEN,
)


def test_layout_is_the_documented_one_byte_by_byte():
    assert encode(EXAMPLE) == b"".join(
        (
            b"\x01",  # format
            b"\x01",  # flags
            b"\x08\x07\x06\x05\x04\x03\x02\x01",  # model version
            b"\x2a\0\0\0\0\0\0\0",  # last offset
            b"\xff" * 8,  # last time
            b"\x07\0\0\0\0\0\0\0",  # events
            b"\x02\0\0\0",  # history length n
            b"\x01",  # event ids m
            b"\x03\0",  # state floats S
            b"\x01\0",  # query floats D
            b"\x0b\0\0\0\0\0\0\0" + b"\x0c\0\0\0\0\0\0\0",  # item hashes
            b"\x15\0\0\0" + b"\x16\0\0\0",  # times
            b"\x00\x09",  # kinds
            b"\x1f\0\0\0\0\0\0\0",  # event id hashes
            b"\0\0\x80\x3f" + b"\0\0\0\x40" + b"\0\0\x40\x40",  # state
            b"\0\0\x80\x40",  # query
        )
    )


@given(records())
def test_round_trip(record: StateRecord):
    assert decode(encode(record)) == record


@given(records())
def test_last_offset_is_read_without_the_rest(record: StateRecord):
    assert decode_last_offset(encode(record)) == record.last_offset


def test_a_new_record_has_no_model_and_no_event():
    record = decode(encode(StateRecord()))
    assert (record.model_version, record.last_offset, record.history_length) == (NO_MODEL, -1, 0)


def test_a_record_knows_its_history():
    assert EXAMPLE.history_length == 2
    np.testing.assert_array_equal(EXAMPLE.item_hashes(), np.array([11, 12], np.uint64))


@pytest.mark.parametrize(("flags", "forgotten"), [(0, False), (FORGOTTEN, True), (0xFE, False), (0xFF, True)])
def test_forgotten_is_one_bit_of_the_flags(flags: int, forgotten: bool):
    assert EXAMPLE._replace(flags=flags).forgotten is forgotten


@pytest.mark.parametrize("length", range(len(encode(EXAMPLE))))
def test_a_truncated_record_is_malformed(length: int):
    with pytest.raises(Malformed, match="state record"):
        decode(encode(EXAMPLE)[:length])


@given(records(), st.binary(min_size=1, max_size=20))
def test_an_extended_record_is_malformed(record: StateRecord, more: bytes):
    with pytest.raises(Malformed, match="that its header announces"):
        decode(encode(record) + more)


@pytest.mark.parametrize("format_byte", [0, 2, 255])
def test_another_format_is_malformed(format_byte: int):
    with pytest.raises(Malformed, match="must have format 1"):
        decode(bytes((format_byte,)) + encode(EXAMPLE)[1:])


@given(st.binary(max_size=100))
def test_random_bytes_are_a_record_or_malformed(value: bytes):
    for candidate in (value, b"\x01" + value):
        try:
            record = decode(candidate)
        except Malformed:
            continue
        assert encode(record) == candidate


@given(st.integers(1, 40).map(lambda half: 2 * half))
def test_kept_length_is_that_of_dropping_half_a_window_when_it_overflows(window: int):
    length = 0
    for events in range(6 * window):
        assert kept_length(events, window) == length
        length += 1
        if length == window + window // 2:
            length = window


@given(records())
def test_a_record_is_whole_and_a_part_of_it_or_more_is_not(record: StateRecord):
    value = encode(record)
    assert is_whole(value)
    assert not is_whole(value[:-1])
    assert not is_whole(value + b"\0")


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda rest: b"\x01" + rest))
def test_what_is_not_whole_does_not_decode_and_nothing_else_is_refused(value: bytes):
    if is_whole(value):
        decode(value)
    else:
        with pytest.raises(Malformed):
            decode(value)
