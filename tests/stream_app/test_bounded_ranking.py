import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_app import bounded_ranking, bounds
from stream_app.bounded_ranking import BoundedRanker
from stream_app.bounds import GroupBounds
from stream_app.ranking import PlainRanker, make_ranker

WIDTH = 24


def plain(embedding: NDArray[np.float32], bias: NDArray[np.float32], query: NDArray[np.float32], masked: list[int]):
    """All rows from the best to the worst, equal scores by row, and their scores: item by item, every item."""
    scores = np.einsum("d,nd->n", query, embedding) + bias
    scores[masked] = -np.inf
    best = np.argsort(-scores, kind="stable")
    return best, scores[best]


def clustered(random: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Items around a few directions, of very different norms: hundreds of scores within a rounding of int8."""
    centres = random.standard_normal((3, WIDTH))
    norms = 10 ** random.uniform(-3, 2, (n, 1))
    return ((centres[random.integers(0, 3, n)] + 0.003 * random.standard_normal((n, WIDTH))) * norms).astype(np.float32)


def twins(random: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Few different items, each of them many times."""
    return random.standard_normal((5, WIDTH)).astype(np.float32)[random.integers(0, 5, n)]


def gaussian(random: np.random.Generator, n: int) -> NDArray[np.float32]:
    return random.standard_normal((n, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("saturates", [False, True])
@settings(max_examples=40)
@given(
    st.sampled_from([clustered, twins, gaussian]),
    st.integers(1, 3000),
    st.sampled_from([1, 5, 10, 60]),
    st.sampled_from([0, 0.1, 30]),
    st.integers(0, 1 << 32),
)
def test_every_list_is_that_of_the_plain_computation(saturates: bool, catalogue, n: int, k: int, biased: float, seed):
    random = np.random.default_rng(seed)
    embedding, bias = catalogue(random, n), (biased * random.standard_normal(n)).astype(np.float32)
    queries = (random.standard_normal((7, WIDTH)) * 10 ** random.uniform(-2, 2, (7, 1))).astype(np.float32)
    queries[0] = 0
    seen = [np.argsort(-(embedding @ query))[: random.integers(0, 80)].astype(np.int32) for query in queries]
    unavailable = np.flatnonzero(random.random(n) < random.choice([0, 0.5])).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded_ranking, "_GROUPS_PER_MEMBER", 20)
        patch.setattr(bounds, "_BLOCK_COLUMNS", 64)
        patch.setattr(bounds, "_BLOCK_ITEMS", 64)
        if saturates:  # a processor without VNNI
            patch.setattr(GroupBounds, "_is_exact", lambda _: False)
        ranker = BoundedRanker(embedding, bias)
    ranker.set_unavailable(unavailable)
    rows, scores = ranker.rank(queries, np.concatenate(seen), np.array(list(map(len, seen))), k)
    for query, mask, found, values in zip(queries, seen, rows, scores, strict=True):
        best, expected = plain(embedding, bias, query, [*mask, *unavailable])
        left = int(np.isfinite(expected[:k]).sum())
        np.testing.assert_array_equal(values[: min(k, n)], expected[:k])
        np.testing.assert_array_equal(found[:left], best[:left])
        assert (values[left:] == -np.inf).all()


def test_few_items_are_scored():
    random = np.random.default_rng(0)
    embedding, queries = gaussian(random, 60_000), gaussian(random, 50)
    ranker = BoundedRanker(embedding, np.zeros(60_000, np.float32))
    scored = 0
    with pytest.MonkeyPatch.context() as patch:
        take = np.take

        def counted(*args, **kwargs):
            nonlocal scored
            taken = take(*args, **kwargs)
            scored += taken.shape[0] * taken.shape[1]
            return taken

        patch.setattr(np, "take", counted)
        ranker.rank(queries, np.zeros(0, np.int32), np.zeros(50, np.int64), 10)
    assert 0 < scored < 50 * 600


def test_a_large_catalogue_is_not_scored_in_full_and_a_small_one_is():
    items = np.zeros((8193, 2), np.float32)
    assert isinstance(make_ranker(items, items[:, 0]), BoundedRanker)
    assert isinstance(make_ranker(items[:-1], items[:-1, 0]), PlainRanker)
