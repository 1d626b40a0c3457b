"""One step of training: the loss of a batch and its gradient, on all threads.

On a CPU the batch is cut into shares of whole sequences, one for each of torch's threads, and each share goes forward
and backward in a thread of its own. The operations of a step are small: threads that split every one of them would wait
for each other most of the time.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from training.fitting.device import Device
from training.fitting.recipe import Recipe
from training.log.windows import Batch
from training.model.candidates import Candidates, draw, sampled_softmax
from training.model.dropout import drawing_from
from training.model.full_softmax import Targets, full_softmax
from training.model.lrurec import SequenceModel
from training.model.packing import Packing
from training.model.seen import Seen

TOKENS_PER_SHARE = 256
"""Fewer than these are not worth a thread."""


class _Share(NamedTuple):
    """Some of a batch's sequences."""

    packing: Packing
    inputs: Tensor
    targets: Tensor
    tokens: int
    """T of the whole batch"""
    generator: Generator


class _Gradient(NamedTuple):
    loss: Tensor
    tied: tuple[Tensor, Tensor]
    """of the embedding and the bias"""
    others: tuple[Tensor, ...]
    """of the other parameters, in their order"""


def backward(model: SequenceModel, batch: Batch, device: Device, recipe: Recipe) -> float:
    """Leave the gradient of the batch's loss in the parameters' `grad` and return the loss.

    The loss is the sum of -log softmax of each target of the batch's tokens, divided by T ≥ 1, their number; it may be
    infinite or not a number. The same seed and number of threads give the same gradient.

    Args:
        model: what is trained.
        batch: T ≥ 1 tokens.
        device: where the model is.
        recipe: what the targets are (`ahead`, `mask_seen`) and what the softmax is over (`negatives`, `mask_seen`).
    """
    candidates = draw(batch.targets, len(model.bias), recipe.negatives, device.name)
    shares = _shares(batch, torch.get_num_threads() if device.name == "cpu" else 1)
    if len(shares) == 1:
        gradients = [_of_share(model, shares[0], device, recipe, candidates)]
    else:
        working = [_threads(len(shares)).submit(_alone, model, share, device, recipe, candidates) for share in shares]
        gradients = [share.result() for share in working]
    for parameter, *parts in zip(
        (model.embedding.weight, model.bias, *_others(model)),
        *((*gradient.tied, *gradient.others) for gradient in gradients),
        strict=True,
    ):
        parameter.grad = parts[0]
        for part in parts[1:]:
            parameter.grad += part
    return sum(gradient.loss.item() for gradient in gradients)


def _others(model: SequenceModel) -> list[Tensor]:
    tied = {id(model.embedding.weight), id(model.bias)}
    return [parameter for parameter in model.parameters() if id(parameter) not in tied]


def _shares(batch: Batch, count: int) -> list[_Share]:
    """The batch's sequences, dealt out longest first."""
    count = max(1, min(count, batch.packing.alive, len(batch.inputs) // TOKENS_PER_SHARE))
    shares = []
    for nth in range(count):
        packing, tokens = batch.packing.share(nth, count)
        generator = Generator().manual_seed(int(torch.randint(2**62, ())))
        shares.append(_Share(packing, batch.inputs[tokens], batch.targets[tokens], len(batch.inputs), generator))
    return shares


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads in each of which torch computes by itself."""
    return ThreadPoolExecutor(count, "share")


def _alone(
    model: SequenceModel, share: _Share, device: Device, recipe: Recipe, candidates: Candidates | None
) -> _Gradient:
    # Again for every share: a thread's first operation takes over what any thread has set last.
    torch.set_num_threads(1)
    return _of_share(model, share, device, recipe, candidates)


def _of_share(
    model: SequenceModel, share: _Share, device: Device, recipe: Recipe, candidates: Candidates | None
) -> _Gradient:
    inputs, targets = share.inputs.to(device.name), share.targets.to(device.name)
    x = model.embedding.weight.detach()[inputs].requires_grad_()
    with drawing_from(share.generator):
        with device.autocast():
            query, _ = model(x, packing=share.packing)
        query = query.float()
        further = _further(share.packing, targets, recipe.ahead)
        seen = _seen(share.packing, inputs) if recipe.mask_seen else None
        softmax = partial(sampled_softmax, candidates) if candidates else full_softmax
        found = softmax(query, model.embedding.weight, model.bias, targets, device.dtype, share.tokens, further, seen)
        grad_x, *others = torch.autograd.grad(query, [x, *_others(model)], found.query)
    found.embedding.index_add_(0, inputs, grad_x)
    return _Gradient(found.loss, (found.embedding, found.bias), tuple(others))


def _seen(packing: Packing, inputs: Tensor) -> Seen:
    lane, time = torch.from_numpy(packing.lane), torch.from_numpy(packing.time)
    return Seen(lane.to(inputs.device), time.to(inputs.device, torch.int32), inputs)


def _further(packing: Packing, targets: Tensor, ahead: tuple[float, ...]) -> list[Targets]:
    """The target of the token k later in a lane lies k + 1 events ahead."""
    return [
        Targets(weight, packing.earlier(k).to(targets.device), targets[int(packing.offsets[k]) :])
        for k, weight in enumerate(ahead, start=1)
        if k < len(packing.batch_sizes)
    ]
