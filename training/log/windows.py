"""Windows over histories: the pieces that a model is trained on and asked about, and their batches.

A window is a span of events: each event but the last is an input, each but the first is the target of the one before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.log.histories import Spans
from training.model.packing import Packing, pack


@dataclass(frozen=True)
class Batch:
    """Windows side by side, packed."""

    packing: Packing
    positions: NDArray[np.int64]
    """[T] where each input token lies among all events; its target is the event after it."""
    inputs: Tensor
    """[T] int64 rows."""
    targets: Tensor
    """[T] int64 rows."""


def cut(histories: Spans, length: int, random: np.random.Generator) -> Spans:
    """Windows of at most `length` inputs in which every event but a user's first is a target exactly once.

    Histories longer than a window are cut at another random phase in each epoch, so that over the epochs every event is
    seen in contexts of all lengths, as the worker's state is, which starts anew from the middle of a history too.
    """
    targets = np.maximum(histories.lengths - 1, 0)
    phase = np.where(targets > length, random.integers(0, length, len(histories)), 0)
    count = -(-(targets + phase) // length)
    owner = np.repeat(np.arange(len(histories)), count)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    first = np.maximum(nth * length - phase[owner], 0)
    last = np.minimum((nth + 1) * length - phase[owner], targets[owner])
    return Spans(histories.begin[owner] + first, histories.begin[owner] + last + 1)


def shuffled(windows: Spans, batch: int, random: np.random.Generator) -> Iterator[Spans]:
    """The windows in random order, `batch` at a time."""
    order = random.permutation(len(windows))
    for begin in range(0, len(order), batch):
        yield windows[order[begin : begin + batch]]


def collate(items: NDArray[np.int32], windows: Spans) -> Batch:
    """Pack windows over the event column `items`."""
    packing = pack(windows.lengths - 1)
    positions = windows.begin[packing.order][packing.lane] + packing.time
    inputs, targets = (torch.from_numpy(items[at].astype(np.int64)) for at in (positions, positions + 1))
    return Batch(packing, positions, inputs, targets)
