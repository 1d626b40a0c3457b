"""What a position's own sequence has had already: no list has it again, so no softmax needs it.

A model that may give it probability must learn to remember all of it and to suppress it, with a state that is small.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

_NEVER: Final = torch.iinfo(torch.int32).max


class Mask(NamedTuple):
    """What each of T positions has had, of a catalogue of N. It takes memory for the lanes, not for the positions."""

    lane: Tensor
    """[T] int64"""
    time: Tensor
    """[T] int32"""
    first: Tensor
    """[lanes, N] int32, the time at which a lane has an item for the first time"""

    def rows(self, positions: slice) -> Tensor:
        """[P, N] bool, true for what these positions have had."""
        return self.first[self.lane[positions]] <= self.time[positions, None]

    def hides(self, positions: Tensor, items: Tensor) -> Tensor:
        """[M] bool, for M pairs of a position and an item."""
        return self.first[self.lane[positions], items] <= self.time[positions]


class Seen(NamedTuple):
    """The inputs of T positions: each one's sequence has had its own and those of its lane's earlier positions."""

    lane: Tensor
    """[T] int64"""
    time: Tensor
    """[T] int32"""
    item: Tensor
    """[T] int64, rows of the catalogue; below 0 for one that is not in it"""

    def mask(self, items: int) -> Mask:
        """Over a catalogue of this many items."""
        lanes = int(self.lane.max()) + 1
        known = self.item >= 0
        at = self.lane[known] * items + self.item[known]
        first = torch.full((lanes * items,), _NEVER, dtype=torch.int32, device=at.device)
        first.scatter_reduce_(0, at, self.time[known], "amin")
        return Mask(self.lane, self.time, first.view(lanes, items))
