from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import MAX_TIMESTAMP_MS, Event, encode, encode_json
from schemas.placement import partition_of
from schemas.state import RECENT_EVENT_IDS
from tests.training.records import Record, event, messages, tombstone
from training.log.columns import Gathered, decoded, forgotten, gather, living
from training.log.histories import Histories, HistoryBuilder


class Did(NamedTuple):
    """What a user does at an offset; without an item it is a tombstone."""

    user: str
    item: str | None
    event_id: str | None

    def record(self, at: int) -> Record:
        return tombstone(self.user, at) if self.item is None else event(self.user, self.item, at, self.event_id)


did = st.builds(
    Did,
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["x", "y", "z", "x", "y", "z", "x", "y", "z", None]),
    st.sampled_from([None, "1", "2", "3"]) | st.integers(1, 3 * RECENT_EVENT_IDS).map(str),
)


def log_of(partitions: list[list[Did]]) -> list[list[Did]]:
    """Users of their own for each partition, as a producer's partitioner has it."""
    return [[one._replace(user=f"{one.user}{n}") for one in part] for n, part in enumerate(partitions)]


logs = st.lists(st.lists(did, max_size=150), min_size=1, max_size=3).map(log_of)


def plainly(partitions: Sequence[Sequence[Did]]) -> HistoryBuilder:
    builder = HistoryBuilder()
    for one in chain.from_iterable(partitions):
        if one.item is None:
            builder.forget(one.user)
        else:
            builder.add(one.user, one.item, 5, one.event_id)
    return builder


def in_columns(partitions: Sequence[Sequence[Did]]) -> Gathered:
    tables = [decoded(messages(one.record(at) for at, one in enumerate(part))).table for part in partitions]
    tombstones = {digest: at for number, table in enumerate(tables) for digest, at in forgotten(number, table).items()}
    return gather(living(table, number, tombstones) for number, table in enumerate(tables))


def assert_same(left: Histories, right: Histories) -> None:
    assert left.item_ids == right.item_ids
    for name in ("begin", "end"):
        np.testing.assert_array_equal(getattr(left.users, name), getattr(right.users, name))
    np.testing.assert_array_equal(left.items, right.items)
    np.testing.assert_array_equal(left.timestamps_ms, right.timestamps_ms)
    assert (left.items.dtype, left.timestamps_ms.dtype) == (right.items.dtype, right.timestamps_ms.dtype)


@given(logs)
def test_columns_give_the_histories_of_one_plain_pass(log: list[list[Did]]) -> None:
    assert_same(in_columns(log).histories, plainly(log).build())


@given(logs.map(lambda log: [[one for one in part if one.item is not None] for part in log]))
def test_columns_count_the_repeats_of_one_plain_pass(log: list[list[Did]]) -> None:
    assert in_columns(log).repeated == plainly(log).repeated


def test_a_user_of_two_partitions_is_forgotten_in_the_order_of_partitions_and_offsets() -> None:
    early, late = Did("a", "x", None), Did("a", "y", None)
    forget = Did("a", None, None)
    for log in ([[early, forget], [late]], [[early], [forget, late]], [[forget, early], [late]]):
        assert_same(in_columns(log).histories, plainly(log).build())


def test_the_busiest_user_is_named() -> None:
    done = [Did(user, "x", None) for user in ("a", "b", "c", "b", "b", "a")]
    assert in_columns([done]).busiest == "b"
    assert in_columns([[]]).busiest == ""


def test_events_of_either_encoding_are_read_and_a_missing_time_is_that_of_the_record() -> None:
    found = decoded(
        messages(
            [
                event("a", "x", 3, "e"),
                Record(b"b", encode_json(Event("b", "y", 6, "buy")), 4),
                Record(b"c", b'{"user_id": "c", "item_id": "z"}', 9),
            ]
        )
    )
    rows = [(row["offset"], row["user_id"], row["item_id"], row["event_type"]) for row in found.table.to_pylist()]
    assert rows == [(3, "a", "x", "interaction"), (4, "b", "y", "buy"), (9, "c", "z", "interaction")]
    assert found.table["timestamp"].cast("int64").to_pylist() == [5, 6, 777]
    assert found.table["event_id"].to_pylist() == ["e", None, None]


def test_a_tombstone_does_not_keep_the_name_of_its_user() -> None:
    found = decoded(messages([tombstone("gone", 7)]))
    assert found.tombstones == 1
    with pa.BufferOutputStream() as everything, pa.ipc.new_stream(everything, found.table.schema) as stream:
        stream.write_table(found.table)
    assert b"gone" not in everything.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "record",
    [
        Record(b"a", b"\xc1"),
        Record(b"a", b"{"),
        Record(None, encode(Event("a", "x", 5))),
        Record(None, None),
        Record(b"other", encode(Event("a", "x", 5))),
        Record(b"a", encode(Event("a", "", 5))),
        Record(b"a", encode(Event("a", "x", MAX_TIMESTAMP_MS + 1))),
    ],
)
def test_a_malformed_record_is_counted_and_skipped(record: Record) -> None:
    found = decoded(messages([record, event("a", "x", 1)]))
    assert (found.malformed, found.table["offset"].to_pylist()) == (1, [1])


def test_records_of_users_who_belong_in_another_partition_are_malformed_where_their_number_is_known() -> None:
    users = [f"u{number}" for number in range(20)]
    records = [Record(user.encode(), event(user, "x").of_value, at, 1) for at, user in enumerate(users)]
    records.append(Record(b"u1", None, 20, 1))
    records.append(Record(b"x" * 300, None, 21, 1))
    here = [at for at, user in enumerate([*users, "u1"]) if partition_of(user.encode(), 3) == 1]
    found = decoded(messages(records), partitions=3)
    assert found.table["offset"].to_pylist() == here
    assert found.malformed == len(records) - len(here)
    assert decoded(messages(records)).malformed == 1


def test_a_batch_without_any_event_has_no_rows() -> None:
    assert len(decoded([]).table) == len(decoded(messages([Record(b"a", b"{")])).table) == 0
