"""SASRec as an ONNX graph that serves: the query after a whole window, computed anew for each event."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.model.onnx_export import export
from training.rivals.sasrec import Block, SASRec


class Window(nn.Module):
    """What a careful server would compute: of the last block only the last token, for nothing else depends on it.

    Full windows only, all of one length: no padding and no mask but the causal one.
    """

    def __init__(self, model: SASRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Embedding rows x [B, L, D], oldest first → the query after the last one, [B, D]."""
        model = self.model
        x = model.embedding_norm(x * math.sqrt(model.shape.width) + model.places.weight[: x.shape[1]])
        for block in list(model.blocks)[:-1]:
            x = _advance(block, x, x)
        return _advance(model.blocks[-1], x[:, -1:], x)[:, 0]


def export_window(model: SASRec, length: int) -> bytes:
    """The graph `x [B, L, D] → query [B, D]`, float32, any B ≥ 1, for windows of exactly `length`.

    The model must be on the CPU.
    """
    return export(Window(model), {"x": torch.zeros(2, length, model.shape.width)}, ["query"])


def _advance(block: nn.Module, asking: Tensor, x: Tensor) -> Tensor:
    """`Block` for the tokens `asking` [B, l, D], the last ones of x [B, L, D], where l is L or 1."""
    assert isinstance(block, Block)
    attention, width = block.attention, x.shape[-1]
    weights, biases = attention.inner.weight.view(3, width, width), attention.inner.bias.view(3, width)
    query, key, value = (
        functional.linear(of, weight, bias).view(*of.shape[:2], attention.heads, -1).transpose(1, 2)
        for of, weight, bias in zip((asking, x, x), weights, biases, strict=True)
    )
    seen = functional.scaled_dot_product_attention(query, key, value, is_causal=asking.shape[1] > 1)
    asking = block.attention_norm(asking, attention.outer(seen.transpose(1, 2).flatten(2)))
    y: Tensor = block.feed_forward_norm(asking, block.narrow(block.gelu(block.widen(asking))))
    return y
