"""Where the items' embeddings start: items that stand close to each other in the histories get similar ones.

The truncated SVD of the logarithms of how much more often than by chance two items are close to each other; Levy and
Goldberg, "Neural Word Embedding as Implicit Matrix Factorization" (NIPS 2014), have the same of words. It takes seconds
and holds what a training learns of an item with few events only after it has begun to learn the others by heart.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from training.log.histories import Spans
from training.model.lrurec import WEIGHT_STD, SequenceModel

REACH: Final = 3
"""Events that two items may lie apart; a pair counts as one over its distance."""
SMOOTHING: Final = 0.75
"""Power of an item's frequency as a neighbour, as in Levy and Goldberg: pairs with rare items count less."""
SWEEPS: Final = 3
"""Power iterations of the randomised SVD."""


@torch.no_grad()
def start_embedding(model: SequenceModel, items: NDArray[np.int32], train: Spans) -> None:
    """Give the items of `train` embeddings made of their neighbours there; the others keep their random ones.

    Their root mean square is that of random ones. Random numbers come from torch's global generator.

    Args:
        model: of N items.
        items: [E] rows of the catalogue, the event column.
        train: stretches of events that may be learned from.
    """
    weight = model.embedding.weight
    count, width = weight.shape
    pairs, strength = associations(items, train, count)
    if not len(strength):
        return
    rank = min(width, count)
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(pairs), torch.from_numpy(strength).float(), (count, count), check_invariants=False
    ).coalesce()
    left, values, _ = torch.svd_lowrank(matrix, q=rank, niter=SWEEPS)
    found = left * values.sqrt()
    seen = torch.from_numpy(np.unique(pairs[0]))
    root_mean_square = found[seen].square().mean().sqrt().clamp_min(1e-12)
    weight[seen, :rank] = (found[seen] * (WEIGHT_STD / root_mean_square)).to(weight.device)


def associations(items: NDArray[np.int32], train: Spans, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of items that are close to each other somewhere, both ways round, and how strongly they are associated.

    The strength of (i, j) is log(1 + P(j | i) / Q(j)), where Q(j) is in proportion to the frequency of j as a neighbour
    to the power of `SMOOTHING`.

    Args:
        items: [E] rows of a catalogue of `count`.
        train: stretches of events.
        count: N.

    Returns:
        Pairs [2, M], each once, and strengths [M].
    """
    stretch = np.full(len(items), -1)  # of each event, numbered; -1 outside of all
    lengths = train.lengths
    before = np.cumsum(lengths) - lengths
    stretch[np.arange(train.events) + np.repeat(train.begin - before, lengths)] = np.repeat(
        np.arange(len(train)), lengths
    )
    keys, weights = [], []
    for distance in range(1, REACH + 1):
        near = np.flatnonzero((stretch[distance:] == stretch[:-distance]) & (stretch[distance:] >= 0))
        one, other = items[near].astype(np.int64), items[near + distance].astype(np.int64)
        key, times = np.unique(
            (np.minimum(one, other) * count + np.maximum(one, other))[one != other], return_counts=True
        )
        keys.append(key)
        weights.append(times / distance)
    distinct, where = np.unique(np.concatenate(keys), return_inverse=True)
    once = np.bincount(where, np.concatenate(weights), len(distinct))
    low, high = np.divmod(distinct, count)
    pairs, together = np.stack((np.append(low, high), np.append(high, low))), np.append(once, once)
    frequency = np.bincount(pairs[0], together, count)
    smoothed = frequency**SMOOTHING
    chance = smoothed / max(smoothed.sum(), 1e-9)
    return pairs, np.log1p(together / frequency[pairs[0]] / chance[pairs[1]])
