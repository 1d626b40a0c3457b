"""A list on one line."""

from ops.watch import line
from schemas.recommendation import Cause, Recommendation

LIST = Recommendation("anna", [("1", 0.5), ("2", 0.25)], 1, Cause.EVENT, 0, 7, 0, None, 45, 0)


def test_items_have_their_title_or_else_their_id():
    assert line(LIST, {"1": "Toy Story"}).endswith("  Toy Story · 2")


def test_lines_are_aligned_whatever_the_user_and_the_cause():
    other = LIST._replace(user_id="bo", cause=Cause.REPLAY, history_length=3)
    assert line(LIST, {}).index("1 · 2") == line(other, {}).index("1 · 2")


def test_ids_and_titles_neither_break_the_line_nor_steer_the_terminal():
    odd = LIST._replace(user_id="an\x1b[2Jna\n", items=[("1", 0.5), ("\r\u202e2", 0.25)])
    text = line(odd, {"1": "\x9bToy\u2028Story é"})
    assert text.isprintable()
    assert "an?[2Jna?" in text
    assert "?Toy?Story é · ??2" in text


def test_a_line_is_cut_at_the_terminals_width():
    cut = line(LIST, {"1": "x" * 100}, width=80)
    assert len(cut) == 80
    assert cut.endswith("x…")
