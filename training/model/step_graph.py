"""The one-step form of a model as an ONNX graph: what a worker runs instead of torch."""

import logging
import warnings

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from training.model.lrurec import LRURec
from training.release.probes import load_step

for chatty in ("onnx_ir", "onnxscript", "torch.onnx"):  # they tell every pass of their optimiser at level info
    logging.getLogger(chatty).setLevel(logging.ERROR)

TOLERANCE = 1e-5
"""Largest allowed difference between the graph and torch: float32 rounding gives about 1e-6."""
CHECKED_BATCHES = (1, 3, 64)


class GraphMismatch(RuntimeError):
    """The exported graph does not compute what the model computes."""


class _Step(nn.Module):
    def __init__(self, model: LRURec) -> None:
        super().__init__()
        self.model = model

    def forward(self, state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        query, next_state = self.model(x, state)
        return next_state, query


def export_step(model: LRURec) -> bytes:
    """The graph `(state [B, S], x [B, D]) → (next_state [B, S], query [B, D])`, float32, any B ≥ 1.

    x is a raw embedding row: the LayerNorm after the embedding is inside. The model must be on the CPU, in evaluation
    mode. The graph is checked against the model before it is returned.

    Raises:
        GraphMismatch: they differ by more than `TOLERANCE`.
    """
    state, x = torch.zeros(2, model.shape.state), torch.zeros(2, model.shape.width)
    batch = torch.export.Dim("B", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Step(model).eval(),
            (state, x),
            input_names=["state", "x"],
            output_names=["next_state", "query"],
            dynamic_shapes=({0: batch}, {0: batch}),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    graph = without_metadata(program.model_proto)
    check_step(graph, model)
    return graph


def without_metadata(proto: onnx.ModelProto) -> bytes:
    """Drop the stack traces that the exporter notes on every node: a tenth of the file, full of local paths."""
    del proto.metadata_props[:]
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    serialized: bytes = proto.SerializeToString()
    return serialized


def check_step(graph: bytes, model: LRURec) -> None:
    """Compare the graph with the model on several steps of random items, from the zero state on.

    Raises:
        GraphMismatch: an output differs by more than `TOLERANCE` at any step.
    """
    session = load_step(graph)
    random = torch.Generator().manual_seed(0)
    for batch in CHECKED_BATCHES:
        state = torch.zeros(batch, model.shape.state)
        for _ in range(5):
            item = torch.randint(model.shape.items, (batch,), generator=random)
            with torch.no_grad():
                x = model.embedding(item)
                query, next_state = model(x, state)
            answered = session.run(["next_state", "query"], {"state": state.numpy(), "x": x.numpy()})
            for name, expected, got in zip(("next_state", "query"), (next_state, query), answered, strict=True):
                error = np.abs(expected.numpy() - got).max()
                if not error <= TOLERANCE:
                    raise GraphMismatch(f"{name} differs by {error} from the model at batch {batch}, limit {TOLERANCE}")
            state = next_state
