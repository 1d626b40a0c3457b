"""Packed batches: sequences of any lengths side by side, without a single padding token.

The tokens of a batch lie *time-major, longest sequence first*: first the first token of every sequence, then the second
of every sequence that has one, and so on (the order of `torch.nn.utils.rnn.PackedSequence`). Whatever is position-wise
sees T rows; whatever walks through time finds the tokens of step t in one contiguous slice whose rows are a prefix of
the slice before.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where each token of a batch lies. A *lane* is one sequence of the batch; lanes are ordered longest first."""

    order: NDArray[np.int64]
    """[B] the sequence, as the caller numbers them, that each lane holds."""
    lengths: NDArray[np.int64]
    """[B] length of each lane, non-increasing."""
    batch_sizes: tuple[int, ...]
    """[L] lanes that are alive at each step, non-increasing, all positive."""
    time: NDArray[np.int64]
    """[T] step of each token."""
    lane: NDArray[np.int64]
    """[T] lane of each token."""

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """[L + 1] where the tokens of each step begin."""
        return np.concatenate(([0], np.cumsum(self.batch_sizes, dtype=np.int64)))

    @property
    def alive(self) -> int:
        """Lanes with at least one token: the first ones."""
        return self.batch_sizes[0] if self.batch_sizes else 0

    @cached_property
    def last(self) -> Tensor:
        """[alive] int64, the last token of each lane that has one."""
        return torch.from_numpy(self.position(self.lengths[: self.alive] - 1, np.arange(self.alive)))

    def position(self, time: NDArray[np.int64], lane: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the tokens at these steps of these lanes lie, int64."""
        return self.offsets[time] + lane

    def share(self, nth: int, count: int) -> tuple["Packing", Tensor]:
        """Every `count`-th lane from `nth` on as a packing of its own, and where its tokens lie in this one, int64."""
        tokens = np.flatnonzero(self.lane % count == nth)
        time, lane = self.time[tokens], self.lane[tokens] // count
        batch_sizes = tuple(np.bincount(time).tolist())
        lanes = slice(nth, None, count)
        return Packing(self.order[lanes], self.lengths[lanes], batch_sizes, time, lane), torch.from_numpy(tokens)

    def earlier(self, steps: int) -> Tensor:
        """For every token that has one: the token `steps` before it in its own lane, int64.

        Those tokens are exactly the ones from `offsets[steps]` on, so the answer has T - offsets[steps] entries.
        """
        begin = self.offsets[min(steps, len(self.batch_sizes))]
        return torch.from_numpy(self.position(self.time[begin:] - steps, self.lane[begin:]))


def pack(lengths: ArrayLike) -> Packing:
    """Lay out sequences of these lengths (zero is allowed: such a sequence has a lane and no token)."""
    given = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-given, kind="stable")
    ordered = given[order]
    longest = int(ordered[0]) if len(ordered) else 0
    time, lane = np.nonzero(np.arange(longest)[:, None] < ordered[None, :])
    batch_sizes = tuple(np.bincount(time, minlength=longest).tolist())
    return Packing(order, ordered, batch_sizes, time, lane)
