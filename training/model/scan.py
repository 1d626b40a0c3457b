"""The linear recurrence h_t = λ ⊙ h_{t-1} + u_t over a packed batch: four schedules, one signature, one adjoint.

A row of H complex numbers is 2H real ones, the real parts first.

The compiled kernel walks through time lane by lane with the state in the cache: the fastest on a CPU, and the one that
takes bfloat16 as it comes.

`sweep` walks through time once, all lanes and units at a time: T·H multiply-adds, one fused operation per step. It is
the fastest on a CPU without a compiler.

The GPU's kernel is parallel over lanes and units, and in time over the steps of a tile in its registers, whose prefixes
it composes in a tree. It reads and writes each number once.

`double` is parallel in time as well (Hillis and Steele, 1986): ⌈log₂ L⌉ passes, each adding the result of 2^k steps
earlier, weighted with λ^(2^k). It does log₂ L times the work in few, large operations: for a GPU without Triton, where
a step of `sweep` is smaller than the launch of its kernel.

The recurrence of the LRU: Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences" (ICML 2023).
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.model import kernels
from training.model.packing import Packing

TOKENS_PER_CHUNK = 512
"""Tokens whose share of λ's gradient is summed at a time, so that they stay in the cache."""


def scan(decay: Tensor, inputs: Tensor, packing: Packing, initial: Tensor | None = None) -> Tensor:
    """All states of the recurrence, differentiable in every tensor.

    Args:
        decay: λ, [2H], float32 (or float64).
        inputs: u, [T, 2H], packed, of the same dtype or bfloat16.
        initial: h before the first step of each lane, [B, 2H]; zero if omitted.

    Returns:
        h, [T, 2H], packed, of the inputs' dtype.
    """
    if initial is not None and packing.alive:
        alive = packing.alive
        inputs = torch.cat((inputs[:alive] + turn(decay, initial[:alive]), inputs[alive:]))
    states: Tensor = _Scan.apply(decay, inputs, packing)
    return states


def turn(decay: Tensor, states: Tensor) -> Tensor:
    """λ ⊙ h, for h [..., 2H]."""
    (decay_real, decay_imag), (real, imag) = decay.chunk(2), states.chunk(2, dim=-1)
    return torch.cat((decay_real * real - decay_imag * imag, decay_real * imag + decay_imag * real), dim=-1)


def sweep(decay: Tensor, inputs: Tensor, packing: Packing, *, reverse: bool = False) -> Tensor:
    """Step by step, over complex numbers; reversed, each step adds its λ-weighted successor, not its predecessor."""
    states = inputs.clone()
    pairs = pairwise(states.split_with_sizes(packing.batch_sizes))
    if reverse:
        for earlier, later in reversed(list(pairs)):
            earlier[: len(later)].addcmul_(later, decay)
    else:
        for earlier, later in pairs:
            later.addcmul_(earlier[: len(later)], decay)
    return states


def double(decay: Tensor, inputs: Tensor, packing: Packing, *, reverse: bool = False) -> Tensor:
    """The same as `sweep`, in ⌈log₂ L⌉ passes over all tokens at once."""
    states, stride, weight = inputs, 1, decay
    while stride < len(packing.batch_sizes):
        begin = int(packing.offsets[stride])
        earlier = packing.earlier(stride).to(inputs.device)
        if reverse:
            states = states.index_add(0, earlier, states[begin:] * weight)
        else:
            states = torch.cat((states[:begin], torch.addcmul(states[begin:], states[earlier], weight)))
        stride, weight = 2 * stride, weight * weight
    return states


class _Scan(torch.autograd.Function):
    """Forward and adjoint. The adjoint of the recurrence is the recurrence backwards with the conjugate of λ."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        if kernels.suit(inputs) and decay.dtype == torch.float32:
            decay, inputs = decay.contiguous(), inputs.contiguous()
            states = torch.empty_like(inputs)
            kernels.run("scan", inputs.dtype, *_extent(packing, decay), decay, inputs, states)
        elif decay.dtype == torch.float32 and (gpu := kernels.gpu_kernels_for(inputs)):
            states = gpu.scan(decay, inputs, packing)
        else:
            advance = double if inputs.is_cuda else sweep
            states = _real(advance(_complex(decay), _complex(inputs), packing)).to(inputs.dtype)
        ctx.save_for_backward(decay, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor, Tensor, None]:
        decay, states = ctx.saved_tensors
        packing: Packing = ctx.packing
        if kernels.suit(states) and decay.dtype == torch.float32:
            grad_inputs, grad_decay = torch.empty_like(states), torch.zeros_like(decay)
            extent, arrays = _extent(packing, decay), (decay, states, grad_states.contiguous(), grad_inputs, grad_decay)
            kernels.run("scan_back", states.dtype, *extent, *arrays)
            return grad_decay, grad_inputs, None
        if decay.dtype == torch.float32 and (gpu := kernels.gpu_kernels_for(states)):
            grad_inputs, grad_decay = gpu.scan_back(decay, states, grad_states, packing)
            return grad_decay, grad_inputs, None
        advance = double if states.is_cuda else sweep
        conjugate = _complex(decay).conj().resolve_conj()
        grad = advance(conjugate, _complex(grad_states), packing, reverse=True)
        before, after = _complex(states), grad[packing.alive :]
        of_decay, earlier = torch.zeros_like(conjugate), packing.earlier(1).to(states.device)
        for chunk in (slice(at, at + TOKENS_PER_CHUNK) for at in range(0, len(after), TOKENS_PER_CHUNK)):
            of_decay += torch.linalg.vecdot(before[earlier[chunk]], after[chunk], dim=0)
        return _real(of_decay), _real(grad).to(states.dtype), None


def _extent(packing: Packing, decay: Tensor) -> tuple[int, Tensor, int]:
    return len(packing.batch_sizes), torch.from_numpy(packing.offsets), len(decay) // 2


def _complex(planes: Tensor) -> Tensor:
    real, imag = (planes.float() if planes.dtype == torch.bfloat16 else planes).chunk(2, dim=-1)
    return torch.complex(real.contiguous(), imag.contiguous())


def _real(numbers: Tensor) -> Tensor:
    return torch.cat((numbers.real, numbers.imag), dim=-1)
