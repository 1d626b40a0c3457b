"""Cross-entropy over the whole catalogue and its gradients, without ever holding all logits.

The logits of T positions over N items are the largest array of a step by far. They are made for a few positions and
items at a time and turned into the gradients at once: memory does not grow with T, and an item's and a position's share
of the work is three products of matrices (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018,
has the running maximum). The compiled kernel does all three while the exponentials are in the cache. The kernels of a
GPU make them twice, for the positions and for the items, and never write them to memory, as FlashAttention does (Dao,
2023).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.model import kernels
from training.model.seen import Mask, Seen

HELD = 2**25
POSITIONS_MIN, POSITIONS_MAX = 128, 512
"""Probabilities that are held at a time on a CPU, and of how many positions: fewer would read the items too often."""
KERNEL_POSITIONS = 192
"""The most that the kernel holds: what it has made lies in a core's cache when it is needed again."""
KERNEL_ROWS, KERNEL_ITEMS, KERNEL_WIDTH = 6, 192, 64
"""It computes on multiples of these: as in softmax.cpp."""
LOGITS_PER_CHUNK_CPU = 2**20
LOGITS_PER_CHUNK_GPU = 2**27
LEFT_OUT = -1e30
"""Logit of an item that is no candidate: as in softmax.cpp. Finite, for a position that has had every item."""


class Targets(NamedTuple):
    """Further targets, of some of the positions."""

    weight: float
    """of each one's cross-entropy in the loss, where that of a position's first target has 1"""
    positions: Tensor
    """[M] int64, each at most once"""
    items: Tensor
    """[M] int64, rows of the catalogue"""


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
    query: Tensor,
    embedding: Tensor,
    bias: Tensor,
    target: Tensor,
    dtype: torch.dtype,
    positions: int | None = None,
    further: Sequence[Targets] = (),
    seen: Seen | None = None,
) -> FullSoftmax:
    """Loss and gradients in one go.

    Args:
        query: [T, D] float32.
        embedding: [N, D] float32.
        bias: [N] float32.
        target: [T] int64, rows of the catalogue.
        dtype: precision of the products with the logits (bfloat16 where the hardware has it); sums are float32.
        positions: what the sums over the T positions are divided by; T, if omitted.
        further: their cross-entropies are added, for next to no time: a position has one softmax for all its targets.
        seen: what each position's softmax leaves out. A target that is among it counts for nothing.

    Raises:
        ValueError: there is no position to average over.
    """
    if not len(target):
        raise ValueError("cross-entropy of no positions is undefined")
    mask = seen.mask(len(bias)) if seen else None
    targets = [Targets(1.0, torch.arange(len(target), device=target.device), target), *further]
    if mask:
        targets = [_unseen(asked, mask) for asked in targets]
    mass = query.new_zeros(len(query))  # [T], the sum of the weights of a position's targets
    for asked in targets:
        mass[asked.positions] += asked.weight
    if (gpu := kernels.gpu_kernels_for(query)) and query.shape[1] <= gpu.WIDEST:
        summed = gpu.softmax
    else:
        summed = _kernel if query.device.type == "cpu" and kernels.library() else _chunks
    grad_query, normaliser, grad_embedding, grad_bias = summed(query, embedding, bias, mass, dtype, mask)
    # What the targets themselves add stays exact: it never meets the probabilities.
    losses, share = normaliser.mul_(mass), 1 / (positions or len(query))
    for factor, rows, wanted in targets:
        queries, answers = query[rows], embedding[wanted]
        losses.index_add_(0, rows, (queries * answers).sum(1) + bias[wanted], alpha=-factor)
        grad_query.index_add_(0, rows, answers, alpha=-factor)
        grad_embedding.index_add_(0, wanted, queries, alpha=-factor)
        grad_bias -= factor * torch.bincount(wanted, minlength=len(bias))
    return FullSoftmax(losses.sum() * share, *(grad.mul_(share) for grad in (grad_query, grad_embedding, grad_bias)))


def _unseen(targets: Targets, mask: Mask) -> Targets:
    """Those that their positions have not had."""
    new = ~mask.hides(targets.positions, targets.items)
    return Targets(targets.weight, targets.positions[new], targets.items[new])


class _Expected(NamedTuple):
    """What the probabilities w [T, N], times the positions' mass, contribute to loss and gradients, float32."""

    query: Tensor
    """w @ embedding, [T, D]"""
    normaliser: Tensor
    """[T], the logarithm of the softmax' denominator, without the mass"""
    embedding: Tensor
    """w.T @ query, [N, D]"""
    bias: Tensor
    """w summed over the positions, [N]"""


def _kernel(
    query: Tensor, embedding: Tensor, bias: Tensor, mass: Tensor, dtype: torch.dtype, mask: Mask | None
) -> _Expected:
    (positions, width), items = query.shape, len(embedding)
    padded_items, padded_width = _padded(items, KERNEL_ITEMS), _padded(width, KERNEL_WIDTH)
    held = min(max(HELD // padded_items, KERNEL_POSITIONS // 2), KERNEL_POSITIONS, _padded(positions, KERNEL_ROWS))
    held = max(held // KERNEL_ROWS, 1) * KERNEL_ROWS
    packed = torch.empty(2, padded_items * padded_width, dtype=dtype)
    exponentials = torch.empty(held * padded_items, dtype=dtype)
    found = _Expected(
        torch.empty_like(query),
        query.new_empty(positions),
        query.new_zeros(padded_items, padded_width),
        query.new_zeros(padded_items),
    )
    given = query.contiguous(), embedding.contiguous(), bias.contiguous(), mass, *(mask or (None, None, None))
    kernels.run("softmax", dtype, positions, items, width, held, *given, *packed, exponentials, *found)
    return found._replace(embedding=found.embedding[:items, :width].contiguous(), bias=found.bias[:items])


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _chunks(
    query: Tensor, embedding: Tensor, bias: Tensor, mass: Tensor, dtype: torch.dtype, mask: Mask | None
) -> _Expected:
    queries, items = query.to(dtype), embedding.to(dtype)
    sums = query.new_zeros(query.shape[1] + 1, len(items))  # [D + 1, N], the last row for the bias
    grad_query, normaliser = torch.empty_like(query), query.new_empty(len(query))
    if query.is_cuda:  # few, large operations: a launch costs more than a visit to memory
        held = max(LOGITS_PER_CHUNK_GPU // len(items), POSITIONS_MIN)
    else:
        held = min(max(HELD // len(items), POSITIONS_MIN), POSITIONS_MAX)
    for chunk in (slice(begin, begin + held) for begin in range(0, len(query), held)):
        had = mask.rows(chunk) if mask else None
        grad_query[chunk], normaliser[chunk] = _chunk(queries[chunk], items, bias, mass[chunk], had, sums)
    return _Expected(grad_query, normaliser, sums[:-1].T.contiguous(), sums[-1])


def _chunk(
    queries: Tensor, items: Tensor, bias: Tensor, mass: Tensor, had: Tensor | None, sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Add the probabilities of these P positions, times their mass and their queries, to `sums`.

    Where `had` [P, N] is true, an item is left out.

    Returns:
        The items' mean under the probabilities, times the mass, [P, D], and the logarithm of the softmax' denominator,
        [P].
    """
    columns = max(1, (LOGITS_PER_CHUNK_GPU if queries.is_cuda else LOGITS_PER_CHUNK_CPU) // len(queries))
    tiles = [slice(begin, begin + columns) for begin in range(0, len(items), columns)]
    weights, shifts = [], []
    # As if the items seen so far were all there are: the largest logit, the sum of the exponentials, their mean.
    largest = total = None
    for tile in tiles:
        logits = queries @ items[tile].T
        shift, weight_sum = _exponentials(logits, bias[tile], None if had is None else had[:, tile])
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
        scaled = extended * ((shift - largest).exp() * mass / total)[:, None]
        sums[:, tile] += scaled.to(queries.dtype).T @ weight
    return expected * (mass / total)[:, None], largest + total.log()


def _exponentials(logits: Tensor, bias: Tensor, had: Tensor | None) -> tuple[Tensor, Tensor]:
    """Replace [P, N] logits by exp(logits + bias - shift), where the item is not left out.

    Returns:
        The shift, which is the largest logit with its bias, and the sum of what was written, both [P] float32.
    """
    biased = logits + bias
    if had is not None:
        biased.masked_fill_(had, LEFT_OUT)
    shift = biased.amax(1)
    logits.copy_(biased.sub_(shift[:, None]).exp_())
    return shift, logits.sum(1, dtype=torch.float32)
