import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_app.tournament import best, reached_by

shapes = st.tuples(st.integers(0, 5), st.sampled_from([1, 2, 63, 64, 65, 3416]) | st.integers(1, 2000))
counts = st.sampled_from([1, 10, 100]) | st.integers(1, 3000)


@given(shapes, counts, st.sampled_from([1, 3, 1 << 20]), st.integers(0, 1 << 32))
def test_the_best_are_those_of_a_stable_sort(shape: tuple[int, int], k: int, values: int, seed: int):
    random = np.random.default_rng(seed)
    scores = random.integers(-values, values, shape).astype(np.float32)
    scores[random.random(shape) < random.random()] = -np.inf
    places, found = best(scores, k)
    assert places.shape == found.shape == (shape[0], k)
    for row, at, of in zip(scores, places, found, strict=True):
        expected = [place for place in np.argsort(-row, kind="stable").tolist() if row[place] > -np.inf][:k]
        assert at[: len(expected)].tolist() == expected
        assert of.tolist() == row[expected].tolist() + [-np.inf] * (k - len(expected))


@given(shapes, counts, st.integers(0, 1 << 32))
def test_as_many_scores_as_wanted_reach_the_value(shape: tuple[int, int], count: int, seed: int):
    scores = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    reached = (scores >= reached_by(scores, count)[:, None]).sum(axis=1)
    assert (reached >= min(count, shape[1])).all()


def test_few_scores_more_than_wanted_reach_the_value():
    scores = np.random.default_rng(0).standard_normal((200, 3416)).astype(np.float32)
    assert (scores >= reached_by(scores, 10)[:, None]).sum(axis=1).mean() < 12
