"""Fine-tuning: a retraining that goes on from the champion, over what is new and a sample of what is old.

A model that only sees the newest events forgets what the older ones taught it, so a sample of those is replayed (Mi,
Lin and Faltings, "ADER: Adaptively Distilled Exemplar Replay towards Continual Learning for Session-based
Recommendation", RecSys 2020).
"""

import dataclasses
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from training.fitting.recipe import Recipe
from training.log.histories import Histories, Spans
from training.log.windows import cut
from training.model.lrurec import LRURec, Shape
from training.release.incumbent import Incumbent, positions
from training.retraining import Start

EPOCHS_SHARE: Final = 0.3
"""of the epochs of a full training"""
LEARNING_RATE_SHARE: Final = 0.25
"""of the learning rate of a full training"""
REPLAYED: Final = 0.25
"""events that are replayed, for each event of the newest windows"""
MOST_NEW: Final = 0.2
"""share of new events up to which `auto` goes on from the champion; measured at 0.11, see docs/training.md"""


def start(incumbent: Incumbent, histories: Histories, train: Spans, since_ms: int, recipe: Recipe) -> Start:
    """Go on from the incumbent.

    Args:
        incumbent: has learned from nothing after `since_ms`.
        histories: of U users.
        train: [U] what may be learned from at first.
        since_ms: UTC milliseconds.
        recipe: of a full training.

    Raises:
        ValueError: the incumbent is of another shape than a new model.
    """
    torch.manual_seed(recipe.seed)
    model = adopt(incumbent, histories, train, recipe.dropout)
    random = np.random.default_rng(recipe.seed)
    return Start(model, lambda allowed: lessons(histories, allowed, since_ms, recipe.window, random))


def adopt(incumbent: Incumbent, histories: Histories, train: Spans, dropout: float) -> LRURec:
    """A model of the items of `histories` with the weights of the incumbent; items are found again by their ids.

    A new item starts as the mean of the known items that come right before it in `train`, one for each time; without
    any, as in a cold start, as a small random embedding. Its bias is the mean one.

    Raises:
        ValueError: the incumbent is of another shape than a new model.
    """
    theirs = incumbent.model.shape
    shape = Shape(items=len(histories.item_ids))
    if dataclasses.replace(theirs, items=shape.items) != shape:
        raise ValueError(f"the champion is of another shape: {theirs}, a new model: {shape}")
    model = LRURec(shape, dropout)
    rows = torch.from_numpy(incumbent.rows_of(histories.item_ids))
    known = rows >= 0
    state = incumbent.model.state_dict()
    with torch.no_grad():
        embedding, bias = model.embedding.weight.clone(), state["bias"].mean().expand(shape.items).clone()
        embedding[known] = state["embedding.weight"][rows[known]]
        bias[known] = state["bias"][rows[known]]
        new, before = (torch.from_numpy(found) for found in _introductions(histories, train, known.numpy()))
        counts = torch.bincount(new, minlength=shape.items)
        sums = torch.zeros_like(embedding).index_add(0, new, embedding[before])
        embedding[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
        model.load_state_dict(state | {"embedding.weight": embedding, "bias": bias})
    return model


def _introductions(
    histories: Histories, train: Spans, known: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of a new item's row and the row of the known item right before it, of each event of `train` that has it."""
    events = positions(Spans(train.begin + (train.lengths > 0), train.end))
    new, before = histories.items[events].astype(np.int64), histories.items[events - 1].astype(np.int64)
    wanted = ~known[new] & known[before]
    return new[wanted], before[wanted]


def fine_tuning(recipe: Recipe) -> Recipe:
    """The recipe of a training that goes on from a trained model: shorter and slower."""
    return dataclasses.replace(
        recipe,
        epochs=max(1, round(EPOCHS_SHARE * recipe.epochs)),
        learning_rate=LEARNING_RATE_SHARE * recipe.learning_rate,
    )


def lessons(histories: Histories, train: Spans, since_ms: int, window: int, random: np.random.Generator) -> Spans:
    """Of what may be learned from, what is new since that time, each in its window, and a sample of the rest.

    Args:
        histories: of U users.
        train: [U] what may be learned from.
        since_ms: UTC milliseconds; a user's first newer event and all behind it are new.
        window: events before the first new one that come with it, and of each replayed stretch.
        random: chooses what is replayed.
    """
    position = np.arange(len(histories.items))
    newer = np.where(histories.timestamps_ms > since_ms, position, len(position))
    first_new = np.minimum(np.minimum.reduceat(newer, histories.users.begin), train.end)
    begin = np.where(first_new < train.end, np.maximum(train.begin, first_new - window), train.end)
    fresh = Spans(begin, train.end)
    old = cut(Spans(train.begin, begin), window, random)
    order = random.permutation(len(old))
    wanted = np.searchsorted(np.cumsum(old.lengths[order]), REPLAYED * fresh.events)
    replayed = old[order[: int(wanted) + 1]]
    return Spans(np.concatenate((fresh.begin, replayed.begin)), np.concatenate((fresh.end, replayed.end)))
