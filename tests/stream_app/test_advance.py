from collections.abc import Sequence
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.recommendation import Cause
from schemas.state import RECENT_EVENT_IDS, StateRecord, kept_length
from stream_app.advance import Advanced, Change, advance
from stream_app.fold import fold
from tests.stream_app.tiny_model import TinyModel

TINY = TinyModel(1, [f"i{n}" for n in range(6)])
MODEL = TINY.load()
HASHES = [*TINY.row_of, 99]  # the last one is an item that the model does not know
WINDOW = 6


def u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def event(offset: int, item: int = 0, event_id: int | None = None) -> Change:
    name, hashed = (None, b"") if event_id is None else (f"e{event_id}", u64(event_id))
    return Change(offset, 1000 * offset, u64(HASHES[item]), item, hashed, name)


def forget(offset: int) -> Change:
    return Change(offset, 1000 * offset)


def applied(changes: Sequence[Change], window: int = WINDOW) -> StateRecord:
    return advance(StateRecord(), changes, window, rebase=False).record


@st.composite
def logs(draw: st.DrawFn) -> list[Change]:
    """A user's records: events, with and without ids that may repeat, and wishes to be forgotten."""
    drawn = draw(
        st.lists(
            st.tuples(st.integers(0, 20), st.integers(0, len(HASHES) - 1), st.none() | st.integers(0, 40)), max_size=40
        )
    )
    return [
        forget(offset) if what == 0 else event(offset, item, event_id)
        for offset, (what, item, event_id) in enumerate(drawn)
    ]


def served(record: StateRecord, changes: Sequence[Change]) -> StateRecord:
    """A round for one user, with its folding."""
    advanced = advance(record, changes, WINDOW, rebase=False)
    folded = fold(MODEL, advanced.segments)
    return advanced.record._replace(state=folded.states[-1].tobytes(), query=folded.queries[-1].tobytes())


# the kept history


@pytest.mark.parametrize("window", [2, 4, 6, 10])
def test_the_kept_history_is_the_newest_events_by_the_rule_for_any_number_of_events(window: int):
    changes = [event(n, n % 6) for n in range(5 * window)]
    for n in range(len(changes) + 1):
        record = applied(changes[:n], window)
        kept = changes[n - kept_length(n, window) : n]
        assert record.items == b"".join(change.item for change in kept)
        assert record.times == b"".join((change.timestamp_ms // 1000).to_bytes(4, "little") for change in kept)
        assert record.kinds == bytes(change.kind for change in kept)
        assert record.events == n


@given(logs(), st.data())
def test_splitting_the_events_into_rounds_anyhow_gives_the_same_record(log: list[Change], data: st.DataObject):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=5)))
    record = StateRecord()
    for start, end in pairwise([0, *cuts, len(log)]):
        record = advance(record, log[start:end], WINDOW, rebase=False).record
    assert record == applied(log)


@given(logs(), st.data())
def test_the_state_is_the_fold_of_the_kept_history_however_the_events_were_split(
    log: list[Change], data: st.DataObject
):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=5)))
    record = StateRecord()
    for start, end in pairwise([0, *cuts, len(log)]):
        record = served(record, log[start:end])
    state, query = TINY.fold(record.item_hashes().tolist())
    np.testing.assert_allclose(np.frombuffer(record.state, "<f4"), state, atol=1e-6)
    np.testing.assert_allclose(np.frombuffer(record.query, "<f4"), query, atol=1e-6)


@given(logs(), st.integers(0, 40), st.integers(0, 40))
def test_a_log_that_is_read_again_from_any_offset_changes_nothing(log: list[Change], start: int, split: int):
    record = applied(log)
    for changes in (log[start:split], log[start:]):
        again = advance(record, changes, WINDOW, rebase=False)
        assert again.record._replace(state=record.state, query=record.query) == record
        assert not again.changed or again.record.last_offset > record.last_offset


@given(logs())
def test_rebasing_changes_nothing_but_where_the_folding_starts(log: list[Change]):
    record = served(StateRecord(), log)
    advanced = advance(record, (), WINDOW, rebase=True)
    assert advanced.record == record._replace(state=b"", query=b"")
    (segment,) = advanced.segments
    assert (segment.folded, segment.state, segment.items) == (0, b"", record.items)
    assert advanced.changed


# events that come twice


@given(st.lists(st.integers(0, 50), min_size=1, max_size=120))
@example([*range(40), *range(20), 39])  # random lists seldom have more than 32 ids
def test_an_event_is_dropped_when_its_id_is_among_the_last_32(event_ids: list[int]):
    expected: list[int] = []
    for event_id in event_ids:
        if event_id not in expected[-RECENT_EVENT_IDS:]:
            expected.append(event_id)
    advanced = advance(StateRecord(), [event(n, 0, e) for n, e in enumerate(event_ids)], WINDOW, rebase=False)
    assert (advanced.applied, advanced.repeated) == (len(expected), len(event_ids) - len(expected))
    assert [owed.event_id for owed in advanced.owed] == [f"e{event_id}" for event_id in expected]
    assert advanced.record.event_ids == b"".join(map(u64, expected[-RECENT_EVENT_IDS:]))


def test_events_without_an_id_are_never_repeats():
    assert advance(StateRecord(), [event(n) for n in range(5)], WINDOW, rebase=False).applied == 5


def test_an_id_that_matches_across_two_others_is_no_repeat():
    halves = b"\1\2\3\4\5\6\7\x08" + b"\x11\x12\x13\x14\x15\x16\x17\x18"
    across = halves[4:12]
    record = applied([event(0)])._replace(event_ids=halves)
    change = event(1)._replace(event_id_hash=across)
    assert advance(record, [change], WINDOW, rebase=False).repeated == 0


def test_an_id_that_matches_across_two_others_does_not_hide_a_repeat_behind_it():
    wanted = b"\1\1\1\1\1\1\1\1"
    record = applied([event(0)])._replace(event_ids=b"\2\1\1\1\1\1\1\1" + b"\1\2\2\2\2\2\2\2" + wanted)
    change = event(1)._replace(event_id_hash=wanted)
    assert advance(record, [change], WINDOW, rebase=False).repeated == 1


def test_a_repeat_leaves_the_record_and_owes_nothing():
    record = applied([event(0, 0, 7)])
    advanced = advance(record, [event(1, 1, 7)], WINDOW, rebase=False)
    assert (advanced.changed, advanced.owed, advanced.record.last_offset) == (False, [], 0)


# the lists that are owed


def test_every_event_is_owed_a_list_with_its_own_provenance():
    owed = advance(StateRecord(), [event(3, 0, 1), event(5, 1)], WINDOW, rebase=False).owed
    assert owed == [(Cause.EVENT, 3, 3000, "e1", 1), (Cause.EVENT, 5, 5000, None, 2)]


@given(logs())
def test_each_mark_of_a_segment_stands_for_one_owed_list_and_its_history(log: list[Change]):
    advanced = advance(StateRecord(), log, WINDOW, rebase=False)
    marks = [mark for segment in advanced.segments for mark in segment.marks]
    lengths = [owed.history_length for owed in advanced.owed]
    assert len(marks) == len(lengths)
    assert marks == lengths
    for segment in advanced.segments:
        assert list(segment.marks) == sorted(segment.marks)
        assert all(segment.folded <= mark <= len(segment.items) // 8 for mark in segment.marks)
        assert len(segment.items) // 8 < WINDOW + WINDOW // 2


@given(logs())
def test_the_marked_queries_are_those_after_each_event(log: list[Change]):
    advanced = advance(StateRecord(), log, WINDOW, rebase=False)
    folded = fold(MODEL, advanced.segments)
    histories = [applied(log[: owed.offset + 1]).item_hashes().tolist() for owed in advanced.owed]
    for query, history in zip(folded.marked, histories, strict=True):
        np.testing.assert_allclose(query, TINY.fold(history)[1], atol=1e-6)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("every", [True, False])
def test_replayed_events_owe_exactly_one_list(times: int, every: bool):
    log = [event(n, 0, n) for n in range(3)]
    advanced = advance(applied(log), log[:times], WINDOW, rebase=False, every=every)
    event_id = "e2" if times == 3 else None  # a record holds no text, so it is known only when the event came again
    assert advanced.owed == [(Cause.REPLAY, 2, 2000, event_id, 3)]
    assert (advanced.replayed, advanced.applied, advanced.changed) == (times, 0, False)


def test_replayed_events_owe_nothing_when_a_new_one_follows():
    log = [event(n) for n in range(4)]
    advanced = advance(applied(log[:3]), log, WINDOW, rebase=False)
    assert [(owed.cause, owed.offset) for owed in advanced.owed] == [(Cause.EVENT, 3)]
    assert (advanced.replayed, advanced.applied) == (3, 1)


def test_a_user_who_is_owed_a_list_without_an_event_gets_it_with_the_given_cause():
    advanced = advance(applied([event(4)]), (), WINDOW, rebase=True, again=Cause.MODEL)
    assert advanced.owed == [(Cause.MODEL, 4, 4000, None, 1)]


@given(logs())
def test_emit_latest_owes_the_last_of_the_lists_and_folds_no_more_than_for_it(log: list[Change]):
    every = advance(StateRecord(), log, WINDOW, rebase=False)
    latest = advance(StateRecord(), log, WINDOW, rebase=False, every=False)
    assert latest.owed == every.owed[-1:]
    assert latest.record == every.record
    assert len(latest.segments) == 1


# events that come late


@given(logs(), st.randoms(use_true_random=False))
def test_events_are_applied_in_the_order_of_the_log_whatever_their_times(log: list[Change], random: Random):
    times = [change.timestamp_ms for change in log]
    random.shuffle(times)
    shuffled = [change._replace(timestamp_ms=time_ms) for change, time_ms in zip(log, times, strict=True)]
    advanced, plain = (advance(StateRecord(), changes, WINDOW, rebase=False) for changes in (shuffled, log))
    assert (advanced.record.items, advanced.record.kinds) == (plain.record.items, plain.record.kinds)
    assert plain.late == 0


def test_an_event_is_late_when_it_is_older_than_the_one_before_it_also_over_rounds():
    first = advance(StateRecord(), [event(5), event(6)._replace(timestamp_ms=4000)], WINDOW, rebase=False)
    again = advance(first.record, [event(7)._replace(timestamp_ms=3000), event(8)], WINDOW, rebase=False)
    assert (first.late, again.late) == (1, 1)


def test_the_first_event_after_a_forgetting_is_not_late():
    old = event(2)._replace(timestamp_ms=0)
    assert advance(StateRecord(), [event(0), forget(1), old], WINDOW, rebase=False).late == 0


def test_a_repeat_that_is_old_is_not_late():
    repeat = event(2, 0, 1)._replace(timestamp_ms=0)
    assert advance(StateRecord(), [event(0, 0, 1), event(1), repeat], WINDOW, rebase=False).late == 0


# forgetting


def forgotten_at(advanced: Advanced, offset: int) -> bool:
    empty = StateRecord(last_offset=offset, last_time_ms=1000 * offset, flags=1)
    return advanced.forgotten and advanced.record == empty


def test_forgetting_leaves_nothing_but_the_offset():
    advanced = advance(applied([event(n, 1, n) for n in range(5)]), [forget(5)], WINDOW, rebase=False)
    assert forgotten_at(advanced, 5)
    assert advanced.changed
    assert advanced.owed == []


def test_lists_owed_before_the_forgetting_are_owed_no_more():
    advanced = advance(StateRecord(), [event(0), event(1), forget(2)], WINDOW, rebase=False)
    assert forgotten_at(advanced, 2)
    assert advanced.owed == []


def test_a_user_may_come_back_as_a_new_one():
    advanced = advance(StateRecord(), [event(0, 1, 7), forget(1), event(2, 2, 7)], WINDOW, rebase=False)
    assert advanced.record == applied([event(2, 2, 7)])
    assert advanced.forgotten
    assert [owed.offset for owed in advanced.owed] == [2]


def test_replayed_events_of_a_forgotten_user_owe_nothing_but_the_forgetting():
    log = [event(0), event(1), forget(2)]
    advanced = advance(applied(log), log[:2], WINDOW, rebase=False)
    assert forgotten_at(advanced, 2)
    assert advanced.owed == []
    assert not advanced.changed


def test_a_forgotten_user_that_is_healed_is_owed_the_forgetting_and_no_list():
    healed = advance(applied([event(0), forget(1)]), (), WINDOW, rebase=False, again=Cause.HEAL)
    assert healed.forgotten
    assert healed.owed == []


def test_a_forgotten_user_is_owed_no_list_without_an_event():
    assert advance(applied([event(0), forget(1)]), (), WINDOW, rebase=True).owed == []
