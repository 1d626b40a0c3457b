"""The position-wise layers of a block: in one pass over memory where kernels are compiled, else in PyTorch's."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from training.model import kernels
from training.model.dropout import Dropout, draw_seed

EPSILON = 1e-5


class ResidualNorm(nn.Module):
    """LayerNorm(x + dropout(y)) over the last dimension."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x and y of one shape, x float32; what comes out is as x."""
        if torch.compiler.is_exporting() or not (x.dtype == torch.float32 and kernels.suit(y)):
            return functional.layer_norm(x + self.dropout(y), self.weight.shape, self.weight, self.bias, EPSILON)
        normed: Tensor = _ResidualNorm.apply(x, y, self.weight, self.bias, EPSILON, *_bits(self.dropout))
        return normed


class Gelu(nn.Module):
    """dropout(GELU(x))."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if torch.compiler.is_exporting() or not kernels.suit(x):
            dropped: Tensor = self.dropout(functional.gelu(x))
            return dropped
        y: Tensor = _Gelu.apply(x, *_bits(self.dropout))
        return y


Bits = tuple[int, int, float]


def _bits(dropout: Dropout) -> Bits:
    """What a kernel needs to drop: the seed, how many of 2^32 are dropped, and the scale of the others."""
    if not dropout.training or dropout.rate == 0:
        return 0, 0, 1.0
    below = round(dropout.rate * 2**32)
    return draw_seed(), below, 2**32 / (2**32 - below)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, epsilon: float, *bits: float) -> Tensor:
        x, y = x.contiguous(), y.contiguous()
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        normalised, inverse, out = torch.empty_like(x), x.new_empty(rows), torch.empty_like(x)
        kernels.run("residual_norm", y.dtype, rows, width, x, y, weight, bias, epsilon, *bits, normalised, inverse, out)
        ctx.save_for_backward(weight, normalised, inverse)
        ctx.bits, ctx.dtype = bits, y.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, normalised, inverse = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x, grad_y = torch.empty_like(grad), torch.empty_like(grad, dtype=ctx.dtype)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        written = grad_x, grad_y, grad_weight, grad_bias
        rows, width = len(inverse), len(weight)
        kernels.run(
            "residual_norm_back", ctx.dtype, rows, width, grad, weight, *ctx.bits, normalised, inverse, *written
        )
        return *written, None, None, None, None


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *bits: float) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        kernels.run("gelu", x.dtype, x.numel(), x, *bits, y)
        ctx.save_for_backward(x)
        ctx.bits = bits
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        kernels.run("gelu_back", x.dtype, x.numel(), x, *ctx.bits, grad.contiguous(), grad_x)
        return grad_x, None, None, None
