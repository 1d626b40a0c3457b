import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_app import bounded_ranking, bounds, ranking
from stream_app.bounded_ranking import BoundedRanker
from stream_app.ranking import PlainRanker, Ranker

WIDTH = 4
NOTHING = np.zeros(0, np.int32)
either = pytest.mark.parametrize("kind", [PlainRanker, BoundedRanker])


@pytest.fixture(autouse=True, scope="module")
def small_groups():
    """Groups, blocks and chunks so small that a catalogue of some hundred items has several of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded_ranking, "_GROUPS_PER_MEMBER", 20)
        patch.setattr(bounded_ranking, "_SCORED_BYTES", 1 << 10)
        patch.setattr(bounds, "_BLOCK_COLUMNS", 64)
        patch.setattr(bounds, "_BLOCK_ITEMS", 64)
        yield


def plain(
    embedding: NDArray[np.float32], bias: NDArray[np.float32], query: NDArray[np.float32], masked: list[int], k: int
) -> tuple[list[int], list[float]]:
    """The best `k` rows that are not masked, by a stable sort."""
    scores = embedding @ query + bias
    scores[masked] = -np.inf
    best = [row for row in np.argsort(-scores, kind="stable").tolist() if scores[row] > -np.inf][:k]
    return best, scores[best].tolist()


def ranked(
    ranker: Ranker, queries: NDArray[np.float32], seen: list[list[int]], k: int
) -> list[tuple[list[int], list[float]]]:
    flat = np.array([row for rows in seen for row in rows], np.int32)
    rows, scores = ranker.rank(queries, flat, np.array([len(rows) for rows in seen], np.int64), k)
    assert rows.shape == scores.shape == (len(queries), k)
    assert rows.dtype == np.int32
    kept = np.isfinite(scores)
    assert (np.diff(kept.astype(int)) <= 0).all(), "what is masked comes last"
    return [(r[keep].tolist(), s[keep].tolist()) for r, s, keep in zip(rows, scores, kept, strict=True)]


@st.composite
def catalogues(draw: st.DrawFn, *, ties: bool) -> tuple[NDArray[np.float32], NDArray[np.float32], np.random.Generator]:
    """Embedding and bias of 1 to 3000 items; with `ties`, whole numbers, whose products are exact and often equal."""
    n = draw(st.sampled_from([1, 2, 3, 15, 16, 17, 64, 3000]) | st.integers(1, 3000))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    if ties:
        return (
            random.integers(-1, 2, (n, WIDTH)).astype(np.float32),
            random.integers(0, 3, n).astype(np.float32),
            random,
        )
    return random.standard_normal((n, WIDTH)).astype(np.float32), random.standard_normal(n).astype(np.float32), random


def masks(random: np.random.Generator, n: int, lists: int) -> list[list[int]]:
    """What each list must not hold: nothing, everything, and anything between, with repetitions."""
    some = [random.integers(0, n, random.integers(0, 2 * n)).tolist() for _ in range(max(0, lists - 2))]
    return [[], list(range(n)), *some][:lists]


counts = st.sampled_from([1, 2, 10, 100]) | st.integers(1, 4000)


@either
@given(catalogues(ties=False), counts, st.integers(0, 6))
def test_lists_equal_the_plain_sort(kind: type[Ranker], catalogue, k: int, lists: int):
    embedding, bias, random = catalogue
    queries = random.standard_normal((lists, WIDTH)).astype(np.float32)
    seen = masks(random, len(bias), lists)
    unavailable = np.unique(random.integers(0, len(bias), len(bias) // 4)).astype(np.int32)
    ranker = kind(embedding, bias)
    ranker.set_unavailable(unavailable)
    for query, mask, (rows, scores) in zip(queries, seen, ranked(ranker, queries, seen, k), strict=True):
        masked = [*mask, *unavailable.tolist()]
        _, expected = plain(embedding, bias, query, masked, k)
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        np.testing.assert_allclose((embedding @ query + bias)[rows], scores, atol=1e-5)
        assert len(set(rows)) == len(rows)
        assert not set(rows) & set(masked)


@either
@given(catalogues(ties=True), counts, st.integers(1, 6))
def test_equal_scores_are_ordered_by_row(kind: type[Ranker], catalogue, k: int, lists: int):
    embedding, bias, random = catalogue
    queries = random.integers(-1, 2, (lists, WIDTH)).astype(np.float32)
    seen = masks(random, len(bias), lists)
    for query, mask, (rows, scores) in zip(queries, seen, ranked(kind(embedding, bias), queries, seen, k), strict=True):
        assert scores == plain(embedding, bias, query, mask, k)[1]
        assert [(-score, row) for score, row in zip(scores, rows, strict=True)] == sorted(
            (-score, row) for score, row in zip(scores, rows, strict=True)
        )
        assert (embedding @ query + bias)[rows].tolist() == scores


@either
@settings(max_examples=30)
@given(catalogues(ties=True), st.integers(0, 6))
def test_everything_in_order_when_the_list_is_as_long_as_the_catalogue(kind: type[Ranker], catalogue, more: int):
    embedding, bias, random = catalogue
    query = random.integers(-1, 2, WIDTH).astype(np.float32)
    (found,) = ranked(kind(embedding, bias), query[None], [[]], len(bias) + more)
    assert found == plain(embedding, bias, query, [], len(bias))


@either
def test_more_lists_than_one_chunk_holds_keep_their_places(kind: type[Ranker], monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    embedding, bias = random.standard_normal((40, WIDTH)).astype(np.float32), np.zeros(40, np.float32)
    queries = random.standard_normal((23, WIDTH)).astype(np.float32)
    seen = [random.integers(0, 40, n % 5).tolist() for n in range(23)]
    monkeypatch.setattr(ranking, "_CHUNK_SCORES", 200)
    monkeypatch.setattr(bounded_ranking, "_CHUNK_LISTS", 5)
    for query, mask, (rows, _) in zip(queries, seen, ranked(kind(embedding, bias), queries, seen, 7), strict=True):
        assert rows == plain(embedding, bias, query, mask, 7)[0]


@either
def test_lists_of_one_call_are_not_touched_by_the_next(kind: type[Ranker]):
    random = np.random.default_rng(0)
    ranker = kind(random.standard_normal((50, WIDTH)).astype(np.float32), np.zeros(50, np.float32))
    queries = random.standard_normal((9, WIDTH)).astype(np.float32)
    first = ranker.rank(queries, NOTHING, np.zeros(9, np.int64), 60)
    copies = [array.copy() for array in first]
    again = ranker.rank(queries[::-1], NOTHING, np.zeros(9, np.int64), 60)
    for array, copy, reverse in zip(first, copies, again, strict=True):
        np.testing.assert_array_equal(array, copy)
        np.testing.assert_allclose(reverse[::-1][np.isfinite(first[1])], copy[np.isfinite(first[1])], rtol=1e-5)


@either
def test_unavailable_items_come_back_when_they_are_available_again(kind: type[Ranker]):
    embedding, bias = np.zeros((3, WIDTH), np.float32), np.array([3, 2, 1], np.float32)
    ranker, query = kind(embedding, bias), np.zeros((1, WIDTH), np.float32)
    served = []
    for unavailable in ([0], [1, 2], []):
        ranker.set_unavailable(np.array(unavailable, np.int32))
        served.append(ranked(ranker, query, [[]], 3)[0][0])
    assert served == [[1, 2], [0], [0, 1, 2]]


@either
def test_an_item_whose_bias_is_minus_infinity_is_never_ranked(kind: type[Ranker]):
    bias = np.array([0, -np.inf, 1], np.float32)
    ranker = kind(np.zeros((3, WIDTH), np.float32), bias)
    assert ranked(ranker, np.zeros((1, WIDTH), np.float32), [[]], 3)[0][0] == [2, 0]


@either
def test_no_query_gives_no_list(kind: type[Ranker]):
    rows, scores = kind(np.ones((3, WIDTH), np.float32), np.ones(3, np.float32)).rank(
        np.zeros((0, WIDTH), np.float32), NOTHING, np.zeros(0, np.int64), 5
    )
    assert rows.shape == scores.shape == (0, 5)
