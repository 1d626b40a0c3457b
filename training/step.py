"""One step of training: the loss of a batch and its gradient."""

import torch

from training.device import Device
from training.full_softmax import full_softmax_loss
from training.model import SequenceModel
from training.windows import Batch


def backward(model: SequenceModel, batch: Batch, device: Device) -> float:
    """Leave the gradient of the batch's loss in the parameters' `grad` and return the loss.

    The loss is the mean of -log softmax over the whole catalogue at each of the batch's T ≥ 1 tokens; it may be
    infinite or not a number.
    """
    inputs, targets = batch.inputs.to(device.name), batch.targets.to(device.name)
    with device.autocast():
        query, _ = model(model.embedding(inputs), packing=batch.packing)
    loss = full_softmax_loss(query.float(), model.embedding.weight, model.bias, targets, device.dtype)
    model.zero_grad()
    torch.autograd.backward(loss)
    return loss.item()
