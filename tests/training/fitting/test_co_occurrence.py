from collections import Counter
from itertools import combinations
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.fitting.co_occurrence import REACH, SMOOTHING, associations, start_embedding
from training.log.histories import Histories, Spans
from training.model.lrurec import WEIGHT_STD, LRURec, Shape

ITEMS = 6


def plainly(sequences: list[list[int]]) -> dict[tuple[int, int], float]:
    """The formula, pair by pair."""
    together: Counter[tuple[int, int]] = Counter()
    for items in sequences:
        for (at, one), (then, other) in combinations(enumerate(items), 2):
            if then - at <= REACH and one != other:
                for pair in ((one, other), (other, one)):
                    together[pair] += 1 / (then - at)  # type: ignore[assignment]
    frequency = [sum(times for (one, _), times in together.items() if one == item) for item in range(ITEMS)]
    chances = [times**SMOOTHING if times else 0.0 for times in frequency]
    return {
        (one, other): log(1 + times / frequency[one] / (chances[other] / sum(chances)))
        for (one, other), times in together.items()
    }


@given(st.lists(st.tuples(st.lists(st.integers(0, ITEMS - 1), max_size=9), st.booleans()), min_size=1, max_size=5))
def test_strengths_are_those_of_the_formula_and_only_of_what_may_be_learned(
    histories: list[tuple[list[int], bool]],
) -> None:
    """What may not be learned from lies between what may, and is nobody's neighbour."""
    items = np.array([item for history, _ in histories for item in history], dtype=np.int32)
    ends = np.cumsum([len(history) for history, _ in histories])
    begins = ends - [len(history) for history, _ in histories]
    chosen = np.array([allowed for _, allowed in histories])
    pairs, strengths = associations(items, Spans(begins[chosen], ends[chosen]), ITEMS)
    found = dict(zip(zip(*pairs.tolist(), strict=True), strengths.tolist(), strict=True))
    assert found == pytest.approx(plainly([history for history, allowed in histories if allowed]))


def test_neighbours_are_alike_from_the_start_at_the_size_of_random_embeddings(ring: Histories) -> None:
    items = len(ring.item_ids)
    model = LRURec(Shape(items=items, width=6, units=4))
    start_embedding(model, ring.items, ring.users)
    weight = model.embedding.weight.detach()
    assert weight.square().mean().sqrt().item() == pytest.approx(WEIGHT_STD)
    likeness = torch.nn.functional.normalize(weight) @ torch.nn.functional.normalize(weight).T
    assert likeness.diagonal(1).mean() > likeness.diagonal(items // 2).mean() + 0.5


def test_an_item_without_a_neighbour_keeps_its_random_embedding(ring: Histories) -> None:
    model = LRURec(Shape(items=len(ring.item_ids) + 1, width=6, units=4))
    before = model.embedding.weight.detach().clone()
    start_embedding(model, ring.items, ring.users)
    after = model.embedding.weight.detach()
    assert torch.equal(before[-1], after[-1])
    assert not (before[:-1] == after[:-1]).any()
    nothing = Spans(ring.users.begin, ring.users.begin + 1)
    start_embedding(model, ring.items, nothing)
    assert torch.equal(model.embedding.weight, after)


def test_a_catalogue_may_be_smaller_than_the_width() -> None:
    items = np.array([0, 1, 2, 1], dtype=np.int32)
    model = LRURec(Shape(items=3, width=8, units=4))
    start_embedding(model, items, Spans(np.array([0]), np.array([4])))
    assert model.embedding.weight.isfinite().all()
