"""Full-ranking evaluation: every held-out event against the whole catalogue, from its user's history before it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.device import Device
from training.histories import Histories, Spans
from training.model import LRURec
from training.windows import collate

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


def metrics_of(ranks: NDArray[np.int64]) -> Metrics:
    """From the rank of each held-out event, 0 being the best. One relevant item each: NDCG is 1 / log₂(rank + 2)."""
    means = []
    for cutoff in CUTOFFS:
        hit = ranks < cutoff
        means += [hit.mean(), np.where(hit, 1 / np.log2(ranks + 2), 0).mean()] if len(ranks) else [0.0, 0.0]
    return Metrics(len(ranks), *map(float, means))


def evaluate(model: LRURec, histories: Histories, held_out: Spans, window: int, device: Device) -> Metrics:
    """Predict each event of the U spans `held_out` from at least the `window` events before it, if there are as many.

    As in a worker, whose kept history grows to one and a half windows before it is cut back, up to half a window of a
    user's events are predicted from one state. The items of that history are not ranked; an event that repeats one of
    them counts as missed, as a worker would miss it. Float32 throughout; equal scores count against the model, and so
    do scores that are not numbers.
    """
    ranks = [_rank(model, histories, *group, device) for group in _groups(histories.users, held_out, window)]
    return metrics_of(np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64))


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
    model: LRURec, histories: Histories, windows: Spans, first: NDArray[np.int64], device: Device
) -> NDArray[np.int64]:
    """Ranks of all held-out events of these windows."""
    model.eval()
    batch = collate(histories.items, windows)
    queries, _ = model(model.embedding(batch.inputs.to(device.name)), packing=batch.packing)
    window = batch.packing.order[batch.packing.lane]
    asked = np.flatnonzero(batch.positions + 1 >= first[window])
    inputs = Spans(windows.begin[window[asked]], batch.positions[asked] + 1)
    queries = queries[torch.from_numpy(asked).to(device.name)]
    targets = batch.targets[torch.from_numpy(asked)].to(device.name)
    positions = max(1, SCORES_PER_CHUNK // model.shape.items)
    ranks = []
    for chunk in (slice(at, at + positions) for at in range(0, len(asked), positions)):
        scores = torch.addmm(model.bias, queries[chunk], model.embedding.weight.T)
        row, item = _seen(histories.items, inputs[chunk])
        scores[row.to(device.name), item.to(device.name)] = -torch.inf
        worse = scores < scores.gather(1, targets[chunk, None])
        ranks.append(model.shape.items - 1 - worse.sum(1).cpu().numpy())
    return np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64)


def _seen(items: NDArray[np.int32], inputs: Spans) -> tuple[Tensor, Tensor]:
    """Pairs of (row of the scores, item) over the events of each span."""
    lengths = inputs.lengths
    row = np.repeat(np.arange(len(inputs)), lengths)
    position = np.arange(len(row)) + np.repeat(inputs.begin - (np.cumsum(lengths) - lengths), lengths)
    return torch.from_numpy(row), torch.from_numpy(items[position].astype(np.int64))
