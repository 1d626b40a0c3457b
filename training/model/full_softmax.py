"""Cross-entropy over the whole catalogue and its gradients, without ever holding all logits.

The logits of T positions over N items are the largest array of a step by far. They are made for a few positions and
items at a time and turned into the gradients at once: memory does not grow with T, and an item's and a position's share
of the work is three products of matrices (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018,
has the running maximum).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from training.model import kernels

HELD = 2**25
POSITIONS_MIN, POSITIONS_MAX = 128, 512
"""Probabilities that are held at a time on a CPU, and of how many positions: fewer would read the items too often."""
LOGITS_PER_CHUNK_CPU = 2**20
LOGITS_PER_CHUNK_GPU = 2**27


class FullSoftmax(NamedTuple):
    """The mean of -log softmax(embedding @ query + bias)[target] over T positions, and its gradients, float32."""

    loss: Tensor
    """scalar"""
    query: Tensor
    """[T, D]"""
    embedding: Tensor
    """[N, D]"""
    bias: Tensor
    """[N]"""


@torch.no_grad()
def full_softmax(
    query: Tensor, embedding: Tensor, bias: Tensor, target: Tensor, dtype: torch.dtype, positions: int | None = None
) -> FullSoftmax:
    """Loss and gradients in one go.

    Args:
        query: [T, D] float32.
        embedding: [N, D] float32.
        bias: [N] float32.
        target: [T] int64, rows of the catalogue.
        dtype: precision of the products with the logits (bfloat16 where the hardware has it); sums are float32.
        positions: what the sums over the T positions are divided by; T, if omitted.

    Raises:
        ValueError: there is no position to average over.
    """
    if not len(target):
        raise ValueError("cross-entropy of no positions is undefined")
    queries, items = query.to(dtype), embedding.to(dtype)
    sums = query.new_zeros(query.shape[1] + 1, len(items))  # [D + 1, N], the last row for the bias
    grad_query, normaliser = torch.empty_like(query), query.new_empty(len(query))
    if query.is_cuda:  # few, large operations: a launch costs more than a visit to memory
        held = max(LOGITS_PER_CHUNK_GPU // len(items), POSITIONS_MIN)
    else:
        held = min(max(HELD // len(items), POSITIONS_MIN), POSITIONS_MAX)
    for chunk in (slice(begin, begin + held) for begin in range(0, len(query), held)):
        grad_query[chunk], normaliser[chunk] = _chunk(queries[chunk], items, bias, sums)
    # What the targets themselves add stays exact: it never meets the probabilities.
    share, wanted = 1 / (positions or len(query)), embedding[target]
    loss = (normaliser - (query * wanted).sum(1) - bias[target]).sum() * share
    grad_query.sub_(wanted).mul_(share)
    grad_embedding = sums[:-1].T.contiguous().index_add_(0, target, query, alpha=-1).mul_(share)
    grad_bias = (sums[-1] - torch.bincount(target, minlength=len(bias))).mul_(share)
    return FullSoftmax(loss, grad_query, grad_embedding, grad_bias)


def _chunk(queries: Tensor, items: Tensor, bias: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Add the probabilities of these P positions, times their queries, to `sums`.

    Returns:
        The items' mean under the probabilities, [P, D], and the logarithm of the softmax' denominator, [P].
    """
    columns = max(1, (LOGITS_PER_CHUNK_GPU if queries.is_cuda else LOGITS_PER_CHUNK_CPU) // len(queries))
    tiles = [slice(begin, begin + columns) for begin in range(0, len(items), columns)]
    weights, shifts = [], []
    # As if the items seen so far were all there are: the largest logit, the sum of the exponentials, their mean.
    largest = total = None
    for tile in tiles:
        logits = queries @ items[tile].T
        shift, weight_sum = exponentials(logits, bias[tile])
        mean = (logits @ items[tile]).float()
        if total is None or largest is None:
            largest, total, expected = shift, weight_sum, mean
        else:
            new = torch.maximum(largest, shift)
            before, now = (largest - new).exp(), (shift - new).exp()
            expected = expected * before[:, None] + mean * now[:, None]
            total, largest = total * before + weight_sum * now, new
        weights.append(logits)
        shifts.append(shift)
    assert total is not None
    assert largest is not None
    extended = torch.cat((queries.float(), queries.new_ones(len(queries), 1)), dim=1)
    for tile, weight, shift in zip(tiles, weights, shifts, strict=True):
        scaled = extended * ((shift - largest).exp() / total)[:, None]
        sums[:, tile] += scaled.to(queries.dtype).T @ weight
    return expected / total[:, None], largest + total.log()


def exponentials(logits: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Replace [P, N] logits by exp(logits + bias - shift).

    Returns:
        The shift, which is the largest logit with its bias, and the sum of what was written, both [P] float32.
    """
    if kernels.suit(logits):
        shift, total = torch.empty(2, len(logits)).unbind()
        kernels.run("exponentials", logits.dtype, *logits.shape, logits, bias, shift, total)
        return shift, total
    biased = logits + bias
    shift = biased.amax(1)
    logits.copy_(biased.sub_(shift[:, None]).exp_())
    return shift, logits.sum(1, dtype=torch.float32)
