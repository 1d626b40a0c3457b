"""SASRec: Kang, McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018), on packed batches.

Width, blocks, feed-forward network, dropout, the place of LayerNorm, the tied output layer with its bias and the full
softmax are those of LRURec here, so that a comparison is one of attention with a linear recurrence. Only attention sees
padding: all else runs on the packed tokens, and lanes of like length attend together, so that less than half of a
padded lane is empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.model.dropout import Dropout
from training.model.layers import Gelu, ResidualNorm
from training.model.lrurec import WEIGHT_STD, SequenceModel
from training.model.packing import Packing


@dataclass(frozen=True)
class SASRecShape:
    """Size of a SASRec."""

    items: int
    window: int
    """Longest lane: each place in it has an embedding of its own."""
    width: int = 64
    heads: int = 2
    blocks: int = 2


@dataclass(frozen=True)
class Grid:
    """Lanes of like length side by side, padded at their ends to the longest: b lanes, l steps, n of b·l are tokens."""

    tokens: Tensor
    """[b, l] int64, where each token lies in the packed batch; a padded place repeats the first token."""
    real: Tensor
    """[b, l] bool, what is not padding."""


def grids(packing: Packing, device: torch.device) -> list[Grid]:
    """All lanes that have a token, those whose lengths differ by less than a factor of two together."""
    lengths = packing.lengths[: packing.alive]
    octaves = np.frexp(lengths)[1]
    edges = np.flatnonzero(np.diff(octaves, prepend=-1, append=-1))
    found = []
    for begin, end in pairwise(edges.tolist()):
        time, lane = np.arange(lengths[begin]), np.arange(begin, end)[:, None]
        real = time < lengths[begin:end, None]
        tokens = np.where(real, packing.position(time, lane), 0)
        found.append(Grid(torch.from_numpy(tokens).to(device), torch.from_numpy(real).to(device)))
    return found


class SelfAttention(nn.Module):
    """Each token attends to itself and to what came before it in its own lane."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inner = nn.Linear(width, 3 * width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor, lanes: Sequence[Grid]) -> Tensor:
        """x [T, D] → [T, D]."""
        projected = self.inner(x)
        values = torch.cat([self._attend(projected, grid) for grid in lanes])
        packed = torch.cat([grid.tokens[grid.real] for grid in lanes]).argsort()
        y: Tensor = self.outer(values.index_select(0, packed))
        return y

    def _attend(self, projected: Tensor, grid: Grid) -> Tensor:
        """[T, 3D] → what the n tokens of a grid see, [n, D], lane by lane."""
        padded = projected.index_select(0, grid.tokens.flatten()).view(*grid.tokens.shape, 3, self.heads, -1)
        query, key, value = padded.permute(2, 0, 3, 1, 4)  # each [b, heads, l, D / heads]
        # What pads a lane comes after its tokens, so the causal mask hides it.
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return seen.transpose(1, 2)[grid.real].flatten(1)


class Block(nn.Module):
    """Attention, then a position-wise feed-forward network of 4D, each with dropout, residual and LayerNorm.

    LayerNorm comes last, as in LRURec; the paper has it before each layer.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.attention_norm = ResidualNorm(width, dropout)
        self.widen = nn.Linear(width, 4 * width)
        self.gelu = Gelu(dropout)
        self.narrow = nn.Linear(4 * width, width)
        self.feed_forward_norm = ResidualNorm(width, dropout)

    def forward(self, x: Tensor, lanes: Sequence[Grid]) -> Tensor:
        """x [T, D] → [T, D]."""
        x = self.attention_norm(x, self.attention(x, lanes))
        y: Tensor = self.feed_forward_norm(x, self.narrow(self.gelu(self.widen(x))))
        return y


class SASRec(SequenceModel):
    """The whole model, to be fitted and evaluated as LRURec is."""

    def __init__(self, shape: SASRecShape, dropout: float = 0.2) -> None:
        """Weights are drawn from torch's global generator: seed it first."""
        super().__init__(shape.items, shape.width)
        self.shape = shape
        self.places = nn.Embedding(shape.window, shape.width)
        self.embedding_norm = nn.LayerNorm(shape.width)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, dropout) for _ in range(shape.blocks))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                for parameter in module.parameters():
                    nn.init.trunc_normal_(parameter, std=WEIGHT_STD, a=-2 * WEIGHT_STD, b=2 * WEIGHT_STD)

    def forward(self, x: Tensor, *, packing: Packing) -> tuple[Tensor, None]:
        """The query after each token.

        Args:
            x: embedding rows, [T, D] float32, in the order of the packing.
            packing: layout of x, of at least one token.

        Returns:
            Queries [T, D], and None: there is no state that a later token could start from.

        Raises:
            ValueError: a lane is longer than the window.
        """
        longest = len(packing.batch_sizes)
        if longest > self.shape.window:
            raise ValueError(f"a lane of {longest} tokens is longer than the window of {self.shape.window}")
        place = self.places(torch.from_numpy(packing.time).to(x.device))
        x = self.dropout(self.embedding_norm(x * self.shape.width**0.5 + place))
        lanes = grids(packing, x.device)
        for block in self.blocks:
            x = block(x, lanes)
        return x, None
