"""Torch modules as ONNX graphs."""

import logging
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

for chatty in ("onnx_ir", "onnxscript", "torch.onnx"):  # they tell every pass of their optimiser at level info
    logging.getLogger(chatty).setLevel(logging.ERROR)


def export(module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str]) -> bytes:
    """The graph of `module`, which is on the CPU, for any size B ≥ 1 of the first dimension of all inputs.

    Args:
        module: called with the values of `inputs` in their order.
        inputs: names and examples, with a first dimension of 2.
        outputs: names of what it returns.
    """
    batch = torch.export.Dim("B", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return _without_metadata(program.model_proto)


def _without_metadata(proto: onnx.ModelProto) -> bytes:
    """Drop the stack traces that the exporter notes on every node: a tenth of the file, full of local paths."""
    del proto.metadata_props[:]
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    serialized: bytes = proto.SerializeToString()
    return serialized
