import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.fitting.recipe import Recipe
from training.fitting.warm_start import REPLAYED, adopt, fine_tuning, lessons, start
from training.log.histories import Histories, HistoryBuilder, Spans
from training.model.lrurec import LRURec, Shape
from training.release.incumbent import Incumbent


def incumbent_of(item_ids: list[str], shape: Shape) -> Incumbent:
    torch.manual_seed(0)
    model = LRURec(shape).eval()
    with torch.no_grad():
        model.bias.uniform_(-1, 1)
    return Incumbent(5, model, item_ids)


def test_rows_move_with_their_items_and_new_items_start_small() -> None:
    incumbent = incumbent_of(["a", "b", "c"], Shape(3))
    histories = words("Nca")
    model = adopt(incumbent, histories, histories.users, 0.2)
    theirs = incumbent.model
    for row, their_row in ((1, 2), (2, 0)):
        torch.testing.assert_close(model.embedding.weight[row], theirs.embedding.weight[their_row], rtol=0, atol=0)
        assert model.bias[row] == theirs.bias[their_row]
    assert 0 < model.embedding.weight[0].abs().max() <= 0.04 + 1e-6
    assert model.bias[0].item() == pytest.approx(theirs.bias.mean().item())
    for (name, mine), expected in zip(model.named_parameters(), theirs.parameters(), strict=True):
        if name not in ("embedding.weight", "bias"):
            torch.testing.assert_close(mine, expected, rtol=0, atol=0)


def test_a_new_item_begins_where_the_known_items_before_it_are_as_far_as_may_be_learned() -> None:
    incumbent = incumbent_of(["a", "b", "c"], Shape(3))
    histories = words("aNb", "aNN", "bNc", "NO", "abcN")
    train = Spans(histories.users.begin, histories.users.end - np.array([0, 0, 0, 0, 1]))
    model = adopt(incumbent, histories, train, 0.2)
    a, b = incumbent.model.embedding.weight[0], incumbent.model.embedding.weight[1]
    new, other = (list(histories.item_ids).index(letter) for letter in "NO")
    torch.testing.assert_close(model.embedding.weight[new], (2 * a + b) / 3)
    assert 0 < model.embedding.weight[other].abs().max() <= 0.04 + 1e-6


def test_the_champion_itself_is_not_changed() -> None:
    incumbent = incumbent_of(["a", "b"], Shape(2))
    before = incumbent.model.bias.clone()
    model = adopt(incumbent, words("ab"), words("ab").users, 0.2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    torch.testing.assert_close(incumbent.model.bias, before, rtol=0, atol=0)


def test_another_shape_is_refused_by_its_figures() -> None:
    with pytest.raises(ValueError, match=r"another shape: .*width=16"):
        adopt(incumbent_of(["a", "b"], Shape(2, width=16, units=8)), words("a"), words("a").users, 0.2)


def test_a_fine_tuning_is_shorter_and_slower() -> None:
    recipe = Recipe(epochs=20, learning_rate=0.01)
    assert fine_tuning(recipe).epochs < recipe.epochs / 2
    assert fine_tuning(recipe).learning_rate < recipe.learning_rate / 2
    assert fine_tuning(Recipe(epochs=1)).epochs == 1


def words(*users: str) -> Histories:
    """Each user is a word, each item a letter."""
    builder = HistoryBuilder()
    for number, word in enumerate(users):
        for time, letter in enumerate(word):
            builder.add(str(number), letter, time)
    return builder.build()


def log(*times: list[int]) -> Histories:
    builder = HistoryBuilder()
    for user, of_user in enumerate(times):
        for time in of_user:
            builder.add(str(user), f"item {time % 3}", time)
    return builder.build()


def events_of(spans: Spans) -> list[int]:
    return [event for begin, end in zip(spans.begin, spans.end, strict=True) for event in range(begin, end)]


@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12), min_size=1, max_size=5),
    st.integers(-1, 31),
    st.integers(1, 5),
    st.integers(0, 100),
)
def test_everything_new_is_learned_once_with_the_window_before_it_and_no_more_than_a_sample_of_the_rest(
    times: list[list[int]], since: int, window: int, seed: int
) -> None:
    histories = log(*times)
    users = histories.users
    found = lessons(histories, users, since, window, np.random.default_rng(seed))
    fresh, replayed = found[: len(users)], found[len(users) :]
    for begin, end, first in zip(users.begin, users.end, fresh.begin, strict=True):
        newer = [event for event in range(begin, end) if histories.timestamps_ms[event] > since]
        assert first == (max(begin, newer[0] - window) if newer else end)
    assert fresh.end.tolist() == users.end.tolist()
    assert all(0 < length <= window + 1 for length in replayed.lengths)
    assert replayed.events <= REPLAYED * fresh.events + window + 1
    targets = events_of(Spans(replayed.begin + 1, replayed.end))
    assert len(targets) == len(set(targets))
    assert set(targets).isdisjoint(events_of(fresh))


def test_the_same_seed_begins_the_same_and_learns_the_same() -> None:
    incumbent = incumbent_of(["item 0"], Shape(1))
    histories = log(list(range(30)), list(range(25)))
    starts = [start(incumbent, histories, histories.users, 27, Recipe(window=4)) for _ in range(2)]
    torch.testing.assert_close(starts[0].model.state_dict(), starts[1].model.state_dict(), rtol=0, atol=0)
    first, second = (events_of(begun.lessons(histories.users)) for begun in starts)
    assert first == second
