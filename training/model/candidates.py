"""A softmax over some of a large catalogue: the targets of a batch, and others drawn at random that stand for the rest.

Every other item is drawn with the same probability K / N, and each that is counts N / K times in the denominator, whose
expectation is then that of the whole catalogue (Bengio and Senécal, "Adaptive Importance Sampling to Accelerate
Training of a Neural Probabilistic Language Model", 2008). Popular items are among a batch's targets anyway and are
counted exactly; what is estimated is the sum over many items of little probability each.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.model.full_softmax import FullSoftmax, Targets, full_softmax
from training.model.seen import Seen


class Candidates(NamedTuple):
    """C items of a catalogue of N that a step's softmax is made of."""

    rows: Tensor
    """[C] int64, ascending: the targets of the batch among them"""
    correction: Tensor
    """[C] float32, what is added to their logits: log N / K, and 0 for the targets"""


def draw(targets: Tensor, items: int, negatives: int | None, device: str) -> Candidates | None:
    """The candidates of a batch, on the device; None stands for the whole catalogue.

    Args:
        targets: [T] int64, rows of the catalogue.
        items: N.
        negatives: K, drawn from torch's global generator; None, or N and more, for the whole catalogue.
        device: name.
    """
    if negatives is None or negatives >= items:
        return None
    known = torch.zeros(items, dtype=torch.bool)
    chosen = known.clone()
    known[targets] = True
    chosen[torch.randperm(items)[:negatives]] = True
    rows = (known | chosen).nonzero().squeeze(1)
    correction = torch.where(known[rows], 0.0, math.log(items / negatives))
    return Candidates(rows.to(device), correction.to(device))


@torch.no_grad()
def sampled_softmax(
    candidates: Candidates,
    query: Tensor,
    embedding: Tensor,
    bias: Tensor,
    target: Tensor,
    dtype: torch.dtype,
    positions: int | None = None,
    further: Sequence[Targets] = (),
    seen: Seen | None = None,
) -> FullSoftmax:
    """As `full_softmax`, over the candidates; all targets must be among them. Other items have a gradient of zero."""
    rows = candidates.rows
    if seen:
        at = torch.searchsorted(rows, seen.item).clamp_(max=len(rows) - 1)
        seen = seen._replace(item=torch.where(rows[at] == seen.item, at, -1))
    found = full_softmax(
        query,
        embedding[rows],
        bias[rows] + candidates.correction,
        torch.searchsorted(rows, target),
        dtype,
        positions,
        [more._replace(items=torch.searchsorted(rows, more.items)) for more in further],
        seen,
    )
    of_embedding = torch.zeros_like(embedding).index_copy_(0, rows, found.embedding)
    return found._replace(embedding=of_embedding, bias=torch.zeros_like(bias).index_copy_(0, rows, found.bias))
