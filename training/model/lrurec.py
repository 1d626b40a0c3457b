"""LRURec: Yue, Wang, He, Zeng, McAuley, Wang, "Linear Recurrent Units for Sequential Recommendation" (WSDM 2024).

Every layer maps `(x, state) → (y, state)`. With a packing, x holds the tokens of a packed batch and the recurrence runs
as a scan; without one, x holds one token per row and the recurrence takes one step, in real arithmetic throughout. Both
forms use the same parameters and agree at every position.

A block's state is 2H float32, real parts first, then imaginary parts; the model's state is the blocks' in order.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.model.dropout import Dropout
from training.model.layers import Gelu, ResidualNorm
from training.model.packing import Packing
from training.model.scan import scan, turn

RADIUS_MIN, RADIUS_MAX = 0.8, 0.99
"""|λ| starts uniform in area between these radii, as in the authors' code."""
WEIGHT_STD = 0.02


@dataclass(frozen=True)
class Shape:
    """Size of a model."""

    items: int
    width: int = 64
    units: int = 128
    blocks: int = 2

    @property
    def state(self) -> int:
        """S: floats of one user's state."""
        return self.blocks * 2 * self.units


class LRU(nn.Module):
    """h_t = λ ⊙ h_{t-1} + γ ⊙ (B x_t), y_t = Re(C h_t): equations 1, 4 and 5; λ = exp(-exp(ν) + i·exp(θ)), so |λ| < 1.

    `inner` holds B and `outer` holds C, both as real matrices over the 2H real and imaginary parts.
    """

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        squared_radius = torch.rand(units) * (RADIUS_MAX**2 - RADIUS_MIN**2) + RADIUS_MIN**2
        self.nu = nn.Parameter(torch.log(-0.5 * torch.log(squared_radius)))
        self.theta = nn.Parameter(torch.log(2 * math.pi * torch.rand(units).clamp_min(1e-6)))
        self.log_gamma = nn.Parameter(0.5 * torch.log1p(-squared_radius))
        self.inner = nn.Linear(width, 2 * units)
        self.outer = nn.Linear(2 * units, width)

    def forward(self, x: Tensor, state: Tensor | None, packing: Packing | None) -> tuple[Tensor, Tensor]:
        """x [T, D] with a packing and [B, D] without, state [B, 2H] → y, of the shape of x, and the last state."""
        return self._step(x, state) if packing is None else self._scan(x, state, packing)

    def decay(self) -> Tensor:
        """λ [2H], the real parts first."""
        radius, phase = torch.exp(-torch.exp(self.nu)), torch.exp(self.theta)
        return torch.cat((radius * torch.cos(phase), radius * torch.sin(phase)))

    def inputs(self, x: Tensor) -> Tensor:
        """γ ⊙ (B x) [..., 2H] for x [..., D]: what each step adds to the state."""
        gamma = torch.exp(self.log_gamma).repeat(2)
        return functional.linear(x, self.inner.weight * gamma[:, None], self.inner.bias * gamma)

    def _step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        state = x.new_zeros(len(x), 2 * len(self.nu)) if state is None else state
        state = turn(self.decay(), state) + self.inputs(x)
        return self.outer(state), state

    def _scan(self, x: Tensor, state: Tensor | None, packing: Packing) -> tuple[Tensor, Tensor]:
        states = scan(self.decay(), self.inputs(x), packing, state)
        final = states[packing.last.to(x.device)].float()
        idle = final.new_zeros(len(packing.lengths), 2 * len(self.nu)) if state is None else state
        return self.outer(states), torch.cat((final, idle[packing.alive :]))


class Block(nn.Module):
    """An LRU, then a position-wise feed-forward network of 4D, each with dropout, residual and LayerNorm."""

    def __init__(self, width: int, units: int, dropout: float) -> None:
        super().__init__()
        self.lru = LRU(width, units)
        self.lru_norm = ResidualNorm(width, dropout)
        self.widen = nn.Linear(width, 4 * width)
        self.gelu = Gelu(dropout)
        self.narrow = nn.Linear(4 * width, width)
        self.feed_forward_norm = ResidualNorm(width, dropout)

    def forward(self, x: Tensor, state: Tensor | None, packing: Packing | None) -> tuple[Tensor, Tensor]:
        """Shapes as for `LRU`."""
        y, state = self.lru(x, state, packing)
        return self.rest(x, y), state

    def rest(self, x: Tensor, y: Tensor) -> Tensor:
        """What comes after the LRU, position by position: its input x and its output y → the block's output."""
        x = self.lru_norm(x, y)
        y = self.narrow(self.gelu(self.widen(x)))
        after: Tensor = self.feed_forward_norm(x, y)
        return after


class SequenceModel(nn.Module):
    """What can be fitted and evaluated here: called with the embedding rows of a packed batch, it gives their queries.

    The call is that of `LRURec.forward`, with a packing. Scores are `embedding @ query + bias`: the output layer is
    tied to the input embedding (equation 8). Row i of both is item i; there is no padding item.
    """

    def __init__(self, items: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(items, width)
        self.bias = nn.Parameter(torch.zeros(items))


class LRURec(SequenceModel):
    """The whole model."""

    def __init__(self, shape: Shape, dropout: float = 0.2) -> None:
        """Weights are drawn from torch's global generator: seed it first."""
        super().__init__(shape.items, shape.width)
        self.shape = shape
        self.embedding_norm = nn.LayerNorm(shape.width)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(shape.width, shape.units, dropout) for _ in range(shape.blocks))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                for parameter in module.parameters():
                    nn.init.trunc_normal_(parameter, std=WEIGHT_STD, a=-2 * WEIGHT_STD, b=2 * WEIGHT_STD)

    def forward(self, x: Tensor, state: Tensor | None = None, packing: Packing | None = None) -> tuple[Tensor, Tensor]:
        """Advance by the tokens of x.

        Args:
            x: embedding rows, float32: [T, D] in the order of the packing, or [B, D], one token of each row, without.
            state: [B, S] float32 before the first token, in the order of the packing's lanes; zero if omitted.
            packing: layout of x; None for the one-step form.

        Returns:
            The query after each token, of the shape of x, and the state after each lane's last token, [B, S].
        """
        x = self.dropout(self.embedding_norm(x))
        befores = [None] * self.shape.blocks if state is None else state.chunk(self.shape.blocks, dim=1)
        states = []
        for block, before in zip(self.blocks, befores, strict=True):
            x, after = block(x, before, packing)
            states.append(after)
        return x, torch.cat(states, dim=1)
