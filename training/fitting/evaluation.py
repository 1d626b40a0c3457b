"""Full-ranking evaluation: every held-out event against the whole catalogue, from its user's history before it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.fitting.device import Device
from training.log.histories import Histories, Spans
from training.log.windows import collate
from training.model.lrurec import SequenceModel

CUTOFFS = (10, 20)
TOKENS_PER_BATCH = 16_384
SCORES_PER_CHUNK = 2**22


@dataclass(frozen=True)
class Metrics:
    """Means over the held-out events; all zero if there are none."""

    events: int
    recall_at_10: float
    ndcg_at_10: float
    recall_at_20: float
    ndcg_at_20: float


@dataclass(frozen=True)
class Ranks:
    """How E held-out events were ranked."""

    events: NDArray[np.int64]
    """[E] where each lies among all events, ascending."""
    ranks: NDArray[np.int64]
    """[E] how many items were ranked above its own; 0 is the best."""


def ndcg(ranks: NDArray[np.int64], cutoff: int) -> NDArray[np.float64]:
    """NDCG of each event, from its rank. One item of each is relevant: it is 1 / log₂(rank + 2) up to the cutoff."""
    return np.where(ranks < cutoff, 1 / np.log2(np.minimum(ranks, cutoff) + 2), 0.0)


def metrics_of(ranks: NDArray[np.int64]) -> Metrics:
    """From the rank of each held-out event."""
    means = []
    for cutoff in CUTOFFS:
        means += [(ranks < cutoff).mean(), ndcg(ranks, cutoff).mean()] if len(ranks) else [0.0, 0.0]
    return Metrics(len(ranks), *map(float, means))


def evaluate(model: SequenceModel, histories: Histories, held_out: Spans, window: int, device: Device) -> Metrics:
    """Predict each event of `held_out` as `rank` does, and average."""
    return metrics_of(rank(model, histories, held_out, window, device).ranks)


def rank(model: SequenceModel, histories: Histories, held_out: Spans, window: int, device: Device) -> Ranks:
    """Predict each event of the U spans `held_out` from at least the `window` events before it, if there are as many.

    As in a worker, whose kept history grows to one and a half windows before it is cut back, up to half a window of a
    user's events are predicted from one state. The items of that history are not ranked; an event that repeats one of
    them counts as missed, as a worker would miss it. Float32 throughout; equal scores count against the model, and so
    do scores that are not numbers. A user's very first event has no history and is left out.
    """
    none = np.zeros(0, dtype=np.int64)
    groups = [_rank(model, histories, *group, device) for group in _groups(histories.users, held_out, window)]
    events, ranks = (np.concatenate(column) for column in zip((none, none), *groups, strict=True))
    order = np.argsort(events)
    return Ranks(events[order], ranks[order])


def _groups(users: Spans, held_out: Spans, window: int) -> Iterator[tuple[Spans, NDArray[np.int64]]]:
    """Windows and, for each, where its held-out events begin; each group of windows fills a batch."""
    targets = max(1, window // 2)
    count = -(-held_out.lengths // targets)
    owner = np.repeat(np.arange(len(users)), count)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    first = held_out.begin[owner] + nth * targets
    windows = Spans(np.maximum(users.begin[owner], first - window), np.minimum(first + targets, held_out.end[owner]))
    batch = max(1, TOKENS_PER_BATCH // (window + targets))
    for begin in range(0, len(windows), batch):
        chunk = slice(begin, begin + batch)
        yield windows[chunk], first[chunk]


@torch.inference_mode()
def _rank(
    model: SequenceModel, histories: Histories, windows: Spans, first: NDArray[np.int64], device: Device
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All held-out events of these windows, and their ranks."""
    model.eval()
    batch = collate(histories.items, windows)
    queries, _ = model(model.embedding(batch.inputs.to(device.name)), packing=batch.packing)
    window = batch.packing.order[batch.packing.lane]
    asked = np.flatnonzero(batch.positions + 1 >= first[window])
    inputs = Spans(windows.begin[window[asked]], batch.positions[asked] + 1)
    queries = queries[torch.from_numpy(asked).to(device.name)]
    targets = batch.targets[torch.from_numpy(asked)].to(device.name)
    positions = max(1, SCORES_PER_CHUNK // len(model.bias))
    ranks = []
    for chunk in (slice(at, at + positions) for at in range(0, len(asked), positions)):
        scores = torch.addmm(model.bias, queries[chunk], model.embedding.weight.T)
        row, item = _seen(histories.items, inputs[chunk])
        scores[row.to(device.name), item.to(device.name)] = -torch.inf
        worse = scores < scores.gather(1, targets[chunk, None])
        ranks.append(len(model.bias) - 1 - worse.sum(1).cpu().numpy())
    return batch.positions[asked] + 1, np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64)


def _seen(items: NDArray[np.int32], inputs: Spans) -> tuple[Tensor, Tensor]:
    """Pairs of (row of the scores, item) over the events of each span."""
    lengths = inputs.lengths
    row = np.repeat(np.arange(len(inputs)), lengths)
    position = np.arange(len(row)) + np.repeat(inputs.begin - (np.cumsum(lengths) - lengths), lengths)
    return torch.from_numpy(row), torch.from_numpy(items[position].astype(np.int64))
