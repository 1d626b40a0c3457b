import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app import fold as fold_module
from stream_app.fold import Segment, fold
from stream_app.model import Model
from tests.stream_app.tiny_model import CHUNK_STEPS, STATE, WIDTH, TinyModel

TINY = TinyModel(1, [f"i{n}" for n in range(6)])
MODEL = TINY.load()
KNOWN = list(TINY.row_of)
UNKNOWN = [0, 5, (1 << 64) - 1]
lengths = st.sampled_from([0, 1, 2, 7, 150, 301]) | st.integers(0, 20)


def segment(history: list[int], folded: int = 0, marks: list[int] | None = None) -> Segment:
    """A segment whose first `folded` items are in its state."""
    state, query = TINY.fold(history[:folded])
    started = folded > 0
    return Segment(
        np.array(history, "<u8").tobytes(),
        folded,
        state.tobytes() if started else b"",
        query.tobytes() if started else b"",
        marks or [],
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], int, list[int]]:
    """A history, how much of it is folded already, and marks."""
    length = draw(lengths)
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    history = [(KNOWN + UNKNOWN)[at] for at in random.integers(0, len(KNOWN + UNKNOWN), length)]
    folded = draw(st.integers(0, length))
    return history, folded, sorted(draw(st.lists(st.integers(folded, length), max_size=4)))


@given(st.lists(cases(), max_size=8))
def test_any_mix_of_segments_equals_the_plain_loop(mix: list[tuple[list[int], int, list[int]]]):
    folded = fold(MODEL, [segment(*case) for case in mix])
    marked = [history[:mark] for history, _, marks in mix for mark in marks]

    def plain(histories: list[list[int]], which: int, floats: int) -> np.ndarray:
        return np.array([TINY.fold(history)[which] for history in histories]).reshape(-1, floats)

    whole = [history for history, _, _ in mix]
    np.testing.assert_allclose(folded.states, plain(whole, 0, STATE), atol=1e-5)
    np.testing.assert_allclose(folded.queries, plain(whole, 1, WIDTH), atol=1e-5)
    np.testing.assert_allclose(folded.marked, plain(marked, 1, WIDTH), atol=1e-5)
    seen = np.split(folded.seen, np.cumsum(folded.seen_lengths))[:-1]
    assert [rows.tolist() for rows in seen] == [
        [TINY.row_of[item] for item in history if item in TINY.row_of] for history in marked
    ]
    steps = sum(item in TINY.row_of for history, done, _ in mix for item in history[done:])
    assert folded.steps == steps


def test_more_segments_than_go_side_by_side_keep_their_places(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    mix = [random.choice(KNOWN, length).tolist() for length in random.integers(0, 12, 50)]
    whole = fold(MODEL, [segment(history) for history in mix])
    monkeypatch.setattr(fold_module, "_SIDE_BY_SIDE", 7)
    monkeypatch.setattr(fold_module, "_POSITIONS", 5)
    parted = fold(MODEL, [segment(history) for history in mix])
    np.testing.assert_allclose(parted.states, whole.states, atol=1e-6)
    np.testing.assert_allclose(parted.states, [TINY.fold(history)[0] for history in mix], atol=1e-5)


def test_a_history_without_marks_goes_in_chunks_and_a_few_steps(monkeypatch: pytest.MonkeyPatch):
    strides: list[int] = []

    def counted(states: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        strides.append(rows.shape[1])
        return Model.advance(MODEL, states, rows)

    monkeypatch.setattr(MODEL, "advance", counted)
    history = (KNOWN * 3)[: 3 * CHUNK_STEPS + 2]
    folded = fold(MODEL, [segment(history, marks=[len(history)]), segment(history[:CHUNK_STEPS], marks=[1])])
    assert strides == [CHUNK_STEPS] * 3 + [1] * CHUNK_STEPS
    np.testing.assert_allclose(folded.states[0], TINY.fold(history)[0], atol=1e-5)


def test_no_segments_at_all_give_nothing():
    folded = fold(MODEL, [])
    assert folded.states.shape == (0, STATE)
    assert folded.queries.shape == folded.marked.shape == (0, WIDTH)
    assert len(folded.seen) == len(folded.seen_lengths) == folded.steps == 0


def test_an_empty_history_has_the_state_of_zeros():
    folded = fold(MODEL, [segment([], marks=[0])])
    assert not folded.states.any()
    assert not folded.marked.any()


def test_unknown_items_change_neither_state_nor_query():
    before = segment(KNOWN[:2], 2)
    after = fold(MODEL, [segment([*KNOWN[:2], *UNKNOWN], 2, marks=[5])])
    assert after.states.tobytes() == before.state
    assert after.marked.tobytes() == before.query
    assert after.steps == 0


def test_what_was_folded_is_not_stepped_again():
    assert fold(MODEL, [segment(KNOWN, 4)]).steps == len(KNOWN) - 4


def test_a_repeated_item_is_seen_as_often_as_it_comes():
    assert fold(MODEL, [segment([KNOWN[3]] * 3, 1, marks=[2, 3])]).seen.tolist() == [3, 3, 3, 3, 3]


def test_states_that_were_given_are_not_written_to():
    before = segment(KNOWN[:1], 1)
    copy = bytes(before.state)
    fold(MODEL, [before._replace(items=np.array(KNOWN, "<u8").tobytes())])
    assert before.state == copy
