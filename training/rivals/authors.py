"""LRURec as its authors compute it, in plain PyTorch: what the speed of training here is measured against.

Sequences are padded on the left to one length, then to a power of two. Projections into and out of the recurrence are
complex matrix products. The scan doubles recursively: ⌈log₂ L⌉ passes, the k-th of which carries the last state of each
left half of 2^k places into its right half, unless that last place is padding. The logits of all items and of the
padding are made for every place at once, in float32.

With the same parameters it gives the queries and the loss of LRURec here: `with_parameters` translates.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.log.windows import Batch
from training.model.lrurec import Shape

PADDING = 0
"""The item of a place without an event; catalogue row i is item i + 1."""


class LRU(nn.Module):
    """The recurrence between two complex projections, with dropout, residual and LayerNorm."""

    def __init__(self, width: int, units: int, dropout: float) -> None:
        super().__init__()
        self.nu = nn.Parameter(torch.empty(units))
        self.theta = nn.Parameter(torch.empty(units))
        self.log_gamma = nn.Parameter(torch.empty(units))
        self.inner = nn.Linear(width, units, dtype=torch.complex64)
        self.outer = nn.Linear(units, width, dtype=torch.complex64)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, L, D] and mask [B, L], both float32, L a power of two → [B, L, D]."""
        decay = torch.exp(torch.complex(-torch.exp(self.nu), torch.exp(self.theta)))
        states = scan(decay, self.inner(x.to(torch.complex64)) * torch.exp(self.log_gamma), mask)
        y: Tensor = self.norm(self.dropout(self.outer(states).real) + x)
        return y


def scan(decay: Tensor, inputs: Tensor, mask: Tensor) -> Tensor:
    """All states of h_t = λ ⊙ h_{t-1} + u_t.

    Args:
        decay: λ, [H] complex64.
        inputs: u, [B, L, H] complex64; L is a power of two.
        mask: [B, L] float32, 0 in the places before a sequence and 1 in its own.

    Returns:
        h, [B, L, H] complex64, of meaning where the mask is 1.
    """
    states, powers = inputs, decay[None]
    for half in (2**k for k in range(inputs.shape[1].bit_length() - 1)):
        left, right = states.reshape(-1, 2 * half, len(decay)).chunk(2, dim=1)
        of_left = mask.reshape(-1, 2 * half)[:, half - 1, None, None]
        states = torch.cat((left, right + powers * left[:, -1:] * of_left), dim=1)
        powers = torch.cat((powers, powers * powers[-1]))
    return states.reshape(inputs.shape)


class FeedForward(nn.Module):
    """Position-wise, of 4D, with dropout, residual and LayerNorm."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] → [B, L, D]."""
        y: Tensor = self.norm(self.dropout(self.narrow(self.dropout(functional.gelu(self.widen(x))))) + x)
        return y


class AuthorsLRURec(nn.Module):
    """The whole model."""

    def __init__(self, shape: Shape, dropout: float = 0.2) -> None:
        """Its weights are undefined: see `with_parameters`."""
        super().__init__()
        self.embedding = nn.Embedding(1 + shape.items, shape.width)
        self.bias = nn.Parameter(torch.zeros(1 + shape.items))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(shape.width)
        self.recurrences = nn.ModuleList(LRU(shape.width, shape.units, dropout) for _ in range(shape.blocks))
        self.feed_forwards = nn.ModuleList(FeedForward(shape.width, dropout) for _ in range(shape.blocks))

    def forward(self, items: Tensor) -> Tensor:
        """Items [B, L] int64, padded on the left → the query at each place, [B, L, D] float32."""
        length = items.shape[1]
        missing = 2 ** (length - 1).bit_length() - length
        mask = functional.pad((items != PADDING).float(), (missing, 0))
        x = functional.pad(self.norm(self.dropout(self.embedding(items))), (0, 0, missing, 0))
        for recurrence, feed_forward in zip(self.recurrences, self.feed_forwards, strict=True):
            x = feed_forward(recurrence(x, mask))
        return x[:, -length:]

    def loss(self, items: Tensor, targets: Tensor) -> Tensor:
        """Mean of -log softmax over items and padding, at the places [B, L] where the target is not padding."""
        logits = self(items) @ self.embedding.weight.T + self.bias
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PADDING)


def with_parameters(shape: Shape, parameters: Mapping[str, Tensor], dropout: float = 0.2) -> AuthorsLRURec:
    """The authors' model with the parameters of `training.model.lrurec.LRURec`, by their names there, copied.

    Its padding has the embedding zero and the bias zero.
    """
    model = AuthorsLRURec(shape, dropout)
    taken = {
        "embedding.weight": functional.pad(parameters["embedding.weight"], (0, 0, 1, 0)),
        "bias": functional.pad(parameters["bias"], (1, 0)),
        "norm.weight": parameters["embedding_norm.weight"],
        "norm.bias": parameters["embedding_norm.bias"],
    }
    for block in range(shape.blocks):
        of_block = {
            name.removeprefix(f"blocks.{block}."): tensor
            for name, tensor in parameters.items()
            if name.startswith(f"blocks.{block}.")
        }
        taken |= {f"recurrences.{block}.{name}": tensor for name, tensor in _recurrence(of_block).items()}
        taken |= {f"feed_forwards.{block}.{name}": tensor for name, tensor in _feed_forward(of_block).items()}
    model.load_state_dict(taken)
    return model


def _recurrence(block: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Re((a + bi)(h + ki)) = ah - bk: the packed model has a and -b side by side.
    real, imag = block["lru.outer.weight"].chunk(2, dim=1)
    outer_bias = block["lru.outer.bias"]
    return {
        **{name: block[f"lru.{name}"] for name in ("nu", "theta", "log_gamma")},
        "inner.weight": torch.complex(*block["lru.inner.weight"].chunk(2)),
        "inner.bias": torch.complex(*block["lru.inner.bias"].chunk(2)),
        "outer.weight": torch.complex(real, -imag),
        "outer.bias": torch.complex(outer_bias, torch.zeros_like(outer_bias)),
        **{f"norm.{name}": block[f"lru_norm.{name}"] for name in ("weight", "bias")},
    }


def _feed_forward(block: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = [f"{layer}.{name}" for layer in ("widen", "narrow") for name in ("weight", "bias")]
    return {
        **{name: block[name] for name in names},
        **{f"norm.{name}": block[f"feed_forward_norm.{name}"] for name in ("weight", "bias")},
    }


def padded(batch: Batch, length: int) -> tuple[Tensor, Tensor]:
    """Items and targets of a packed batch as the authors lay them out: [B, `length`] int64 each, padded on the left.

    Row b is the batch's lane b. Raises IndexError if a lane is longer than `length`.
    """
    packing = batch.packing
    lane, place = (torch.from_numpy(at) for at in (packing.lane, length - packing.lengths[packing.lane] + packing.time))
    items, targets = torch.full((2, len(packing.lengths), length), PADDING)
    items[lane, place] = batch.inputs + 1
    targets[lane, place] = batch.targets + 1
    return items, targets
