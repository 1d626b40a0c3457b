import math

import numpy as np
import pytest
import torch

from training.fitting.device import CPU
from training.fitting.evaluation import evaluate, metrics_of
from training.log.histories import Histories, Spans
from training.log.holdout import leave_one_out
from training.model.lrurec import LRURec


def test_metrics_are_the_means_over_ranks() -> None:
    metrics = metrics_of(np.array([0, 9, 10, 20]))
    assert metrics.events == 4
    assert metrics.recall_at_10 == 0.5
    assert metrics.recall_at_20 == 0.75
    assert metrics.ndcg_at_10 == pytest.approx((1 + 1 / math.log2(11)) / 4)
    assert metrics.ndcg_at_20 == pytest.approx((1 + 1 / math.log2(11) + 1 / math.log2(12)) / 4)


def test_nothing_held_out_has_metrics_of_zero() -> None:
    assert metrics_of(np.zeros(0, dtype=np.int64)).recall_at_20 == 0


def plain_ranks(model: LRURec, histories: Histories, held_out: Spans, window: int) -> list[int]:
    """One event at a time, one step at a time, for histories that fit into the window."""
    ranks = []
    for user, (begin, end) in enumerate(zip(held_out.begin, held_out.end, strict=True)):
        for event in range(begin, end):
            inputs = histories.items[max(histories.users.begin[user], event - window) : event]
            state = torch.zeros(1, model.shape.state)
            for item in inputs:
                query, state = model(model.embedding(torch.tensor([int(item)])), state)
            scores = model.embedding.weight @ query[0] + model.bias
            target = scores[histories.items[event]].item()
            others = [float(score) for row, score in enumerate(scores) if row not in inputs]
            ranks.append(sum(score > target for score in others) if histories.items[event] not in inputs else 10**6)
    return ranks


@torch.no_grad()
def test_every_event_is_ranked_from_the_history_before_it_without_its_items(
    small_model: LRURec, ring: Histories
) -> None:
    short = Spans(ring.users.begin, np.minimum(ring.users.end, ring.users.begin + 9))
    histories = Histories(ring.items, ring.timestamps_ms, short, ring.item_ids)
    held_out = Spans(short.begin + 4, short.end)
    expected = metrics_of(np.array(plain_ranks(small_model, histories, held_out, window=100)))
    assert evaluate(small_model, histories, held_out, 100, CPU) == expected
    assert expected.events == 5 * len(short)


@torch.no_grad()
def test_leave_one_out_uses_exactly_the_window_before_the_event(small_model: LRURec, ring: Histories) -> None:
    test = leave_one_out(ring).test
    expected = metrics_of(np.array(plain_ranks(small_model, ring, test, window=5)))
    assert evaluate(small_model, ring, test, 5, CPU) == expected


def test_scores_that_are_not_numbers_find_nothing(small_model: LRURec, ring: Histories) -> None:
    with torch.no_grad():
        small_model.embedding.weight.fill_(math.nan)
    assert evaluate(small_model, ring, leave_one_out(ring).test, 100, CPU).recall_at_10 == 0


def test_equal_scores_count_against_the_model(small_model: LRURec, ring: Histories) -> None:
    with torch.no_grad():
        small_model.embedding.weight.zero_()
        small_model.bias.zero_()
    short = Spans(ring.users.begin, ring.users.begin + 2)
    histories = Histories(ring.items, ring.timestamps_ms, short, ring.item_ids)
    metrics = evaluate(small_model, histories, Spans(short.begin + 1, short.end), 100, CPU)
    assert metrics.recall_at_10 == 0
    assert metrics.recall_at_20 == 1
