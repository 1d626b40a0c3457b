"""Cross-entropy over the whole catalogue, without ever holding all logits.

The logits of T positions over N items are the largest array of a step by far. They are made for a few positions at a
time, turned into gradients at once, and thrown away: memory does not grow with T and the products stay in cache.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_PER_CHUNK_CPU = 2**21
LOGITS_PER_CHUNK_GPU = 2**27


def full_softmax_loss(query: Tensor, embedding: Tensor, bias: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean of -log softmax(embedding @ query + bias)[target] over T positions, a float32 scalar.

    Args:
        query: [T, D] float32.
        embedding: [N, D] float32.
        bias: [N] float32.
        target: [T] int64, rows of the catalogue.
        dtype: precision of the products with the logits (bfloat16 where the hardware has it); sums are float32.

    Raises:
        ValueError: there is no position to average over.
    """
    if not len(target):
        raise ValueError("cross-entropy of no positions is undefined")
    loss: Tensor = _FullSoftmax.apply(query, embedding, bias, target, dtype)
    return loss


class _FullSoftmax(torch.autograd.Function):
    """Computes the gradients on the way forward: the only moment at which the probabilities exist."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, embedding: Tensor, bias: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
        # The bias is one more column of the items, met by a column of ones: its sums come with the products.
        queries = torch.cat((query, query.new_ones(len(query), 1)), dim=1).to(dtype)
        items = torch.cat((embedding, bias[:, None]), dim=1).to(dtype)
        expected = torch.empty_like(query)
        grad_items = query.new_zeros(items.shape[1], items.shape[0])
        loss = query.new_zeros(())
        logits_per_chunk = LOGITS_PER_CHUNK_GPU if query.is_cuda else LOGITS_PER_CHUNK_CPU
        positions = max(1, logits_per_chunk // len(items))
        for begin in range(0, len(query), positions):
            chunk = slice(begin, begin + positions)
            probability = (queries[chunk] @ items.T).softmax(dim=1)
            likelihood = probability.gather(1, target[chunk, None]).to(query.dtype)
            loss -= likelihood.clamp_min(torch.finfo(torch.float32).tiny).log().sum()
            expected[chunk] = (probability @ items)[:, :-1]
            grad_items += queries[chunk].T @ probability
        # What the targets themselves add stays exact: it never meets the probabilities.
        grad_query = expected - embedding[target]
        grad_embedding = grad_items[:-1].T.index_add(0, target, query, alpha=-1)
        grad_bias = grad_items[-1] - torch.bincount(target, minlength=len(bias))
        ctx.save_for_backward(grad_query, grad_embedding, grad_bias)
        ctx.positions = len(query)
        return loss / len(query)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_loss / ctx.positions
        return (*(gradient * scale for gradient in ctx.saved_tensors), None, None)
