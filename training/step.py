"""One step of training: the loss of a batch and its gradient, on all threads.

On a CPU the batch is cut into shares of whole sequences, one for each of torch's threads, and each share goes forward
and backward in a thread of its own. The operations of a step are small: threads that split every one of them would wait
for each other most of the time.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from training.device import Device
from training.dropout import drawing_from
from training.full_softmax import full_softmax
from training.model import LRURec
from training.packing import Packing
from training.windows import Batch

TOKENS_PER_SHARE = 256
"""Fewer than these are not worth a thread."""


class _Share(NamedTuple):
    packing: Packing
    inputs: Tensor
    targets: Tensor


class _Gradient(NamedTuple):
    """Of the sum of the share's losses."""

    loss: float
    embedding: Tensor
    bias: Tensor
    others: tuple[Tensor, ...]


def backward(model: LRURec, batch: Batch, device: Device) -> float:
    """Leave the gradient of the batch's loss in the parameters' `grad` and return the loss.

    The loss is the mean of -log softmax over the whole catalogue at each of the batch's T ≥ 1 tokens; it may be
    infinite or not a number. The same seed and number of threads give the same gradient.
    """
    shares = _shares(batch, device)
    seeds = torch.randint(2**62, (len(shares),)).tolist()
    if len(shares) == 1:
        gradients = [_of_share(model, shares[0], seeds[0], device)]
    else:
        working = [_threads(len(shares)).submit(_of_share, model, *each, device) for each in zip(shares, seeds, strict=True)]
        gradients = [each.result() for each in working]
    weights = [len(share.targets) / len(batch.targets) for share in shares]
    ...
