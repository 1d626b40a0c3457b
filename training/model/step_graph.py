"""What a worker runs instead of torch: a model as ONNX graphs, one for a step and one for a chunk of steps.

A chunk's recurrence is a scan by recursive doubling, as in the paper: the partial sums over 1, 2, 4, … positions, each
from the ones before. Beside a step for each item it saves the calls, most of a short round's time: 32 steps of one
user take a seventh, of many users as long.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training.model.lrurec import LRU, Block, LRURec
from training.model.onnx_export import export
from training.model.scan import turn
from training.release.probes import load_graph

CHUNK_STEPS = 32
"""100 items, the length to which a full history is cut by default, are 3 chunks and 4 steps"""
TOLERANCE = 1e-5
"""Largest allowed difference between a graph and torch, of the largest value where that is above 1: float32 rounding
gives about 1e-6, and sums in another order a few times as much."""
CHECKED_BATCHES = (1, 3, 64)


class GraphMismatch(RuntimeError):
    """An exported graph does not compute what the model computes."""


def export_step(model: LRURec) -> bytes:
    """The graph `(state [B, S], x [B, D]) → (next_state [B, S], query [B, D])`, float32, any B ≥ 1.

    x is a raw embedding row: the LayerNorm after the embedding is inside. The model must be on the CPU, in evaluation
    mode. The graph is checked against the model before it is returned.

    Raises:
        GraphMismatch: they differ by more than `TOLERANCE`.
    """
    graph = _export(_Step(model), model, ())
    check_graph(graph, model)
    return graph


def export_chunk(model: LRURec, steps: int = CHUNK_STEPS) -> bytes:
    """As `export_step`, for x [B, `steps`, D], oldest first, and the query after the last one."""
    graph = _export(_Chunk(model, steps), model, (steps,))
    check_graph(graph, model, (steps,))
    return graph


def check_graph(graph: bytes, model: LRURec, steps: tuple[int, ...] = ()) -> None:
    """Compare a graph with the model over several calls with random items, from the zero state on.

    Args:
        graph: of a step, or of a chunk of so many `steps`.
        model: steps alone, whatever the graph does.
        steps: the dimensions of x between B and D.

    Raises:
        GraphMismatch: an output differs by more than `TOLERANCE` after any call.
    """
    session = load_graph(graph)
    random = torch.Generator().manual_seed(0)
    for batch in CHECKED_BATCHES:
        state = torch.zeros(batch, model.shape.state)
        for _ in range(5):
            item = torch.randint(model.shape.items, (batch, *steps), generator=random)
            with torch.no_grad():
                x, next_state = model.embedding(item), state
                for each in x.reshape(batch, -1, model.shape.width).unbind(1):
                    query, next_state = model(each, next_state)
            answered = session.run(["next_state", "query"], {"state": state.numpy(), "x": x.numpy()})
            for name, expected, got in zip(("next_state", "query"), (next_state, query), answered, strict=True):
                error, limit = np.abs(expected.numpy() - got).max(), TOLERANCE * max(1.0, float(expected.abs().max()))
                if not error <= limit:
                    raise GraphMismatch(f"{name} differs by {error} from the model at batch {batch}, limit {limit}")
            state = next_state


def _export(module: nn.Module, model: LRURec, steps: tuple[int, ...]) -> bytes:
    state, x = torch.zeros(2, model.shape.state), torch.zeros(2, *steps, model.shape.width)
    return export(module, {"state": state, "x": x}, ["next_state", "query"])


class _Step(nn.Module):
    def __init__(self, model: LRURec) -> None:
        super().__init__()
        self.model = model

    def forward(self, state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        query, next_state = self.model(x, state)
        return next_state, query


class _Chunk(nn.Module):
    """Computes of the last block only what its last position needs."""

    def __init__(self, model: LRURec, steps: int) -> None:
        super().__init__()
        self.model = model
        *inner, last = (block for block in model.blocks if isinstance(block, Block))
        self.scans = nn.ModuleList(_Scan(block, steps) for block in inner)
        self.sum = _Sum(last, steps)

    def forward(self, state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        *befores, before = state.chunk(self.model.shape.blocks, dim=1)
        x, afters = self.model.embedding_norm(x), []
        for scan, first in zip(self.scans, befores, strict=True):
            x, after = scan(x, first)
            afters.append(after)
        query, after = self.sum(x, before)
        return torch.cat((*afters, after), dim=1), query


class _Scan(nn.Module):
    """A block at all positions."""

    decays: Tensor

    def __init__(self, block: Block, steps: int) -> None:
        super().__init__()
        self.block = block
        self.strides = [1 << doubling for doubling in range((steps - 1).bit_length())]
        self.register_buffer("decays", _powers(block.lru, self.strides))

    def forward(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, L, D], before [B, 2H] → y [B, L, D] and the state after the last position [B, 2H]."""
        lru = self.block.lru
        states = lru.inputs(x)
        states = torch.cat((states[:, :1] + turn(lru.decay(), before)[:, None], states[:, 1:]), dim=1)
        for stride, decay in zip(self.strides, self.decays, strict=True):
            later = states[:, stride:] + turn(decay, states[:, :-stride])
            states = torch.cat((states[:, :stride], later), dim=1)
        return self.block.rest(x, lru.outer(states)), states[:, -1]


class _Sum(nn.Module):
    """A block at its last position, whose state is one weighted sum of all inputs."""

    weights: Tensor
    decay: Tensor

    def __init__(self, block: Block, steps: int) -> None:
        super().__init__()
        self.block = block
        self.register_buffer("weights", _powers(block.lru, range(steps - 1, -1, -1)))
        self.register_buffer("decay", _powers(block.lru, [steps])[0])

    def forward(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, L, D], before [B, 2H] → y [B, D] at the last position, and the state after it [B, 2H]."""
        lru = self.block.lru
        (weights_real, weights_imag), (real, imag) = self.weights.chunk(2, -1), lru.inputs(x).chunk(2, -1)
        sums = (weights_real * real - weights_imag * imag).sum(1), (weights_real * imag + weights_imag * real).sum(1)
        state = turn(self.decay, before) + torch.cat(sums, dim=-1)
        return self.block.rest(x[:, -1], lru.outer(state)), state


def _powers(lru: LRU, exponents: Sequence[int]) -> Tensor:
    """λ to each of the powers, [E, 2H]: the real parts first."""
    decay = torch.complex(*lru.decay().detach().double().chunk(2))
    powers = decay ** torch.tensor(exponents)[:, None]
    return torch.cat((powers.real, powers.imag), dim=-1).float()
