"""Dropout whose random bits cost little on a CPU.

PyTorch draws one random number per element on a CPU, in one thread: 12 ns each, for LRURec more than all the matrix
products of a step. Here a byte per element decides, eight of which come from one draw. The compiled kernels take their
bits from a hash of a seed and the element's index instead.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional


class _Source(threading.local):
    """Where this thread's random numbers come from; torch's global generator unless said otherwise."""

    generator: Generator | None = None


_source = _Source()


@contextmanager
def drawing_from(generator: Generator) -> Iterator[None]:
    """Within it, all dropout of this thread on the CPU is drawn from `generator`."""
    before, _source.generator = _source.generator, generator
    try:
        yield
    finally:
        _source.generator = before


def draw_seed() -> int:
    """A seed for the kernels' hash, 32 bits."""
    return int(torch.randint(2**32, (), generator=_source.generator))


class Dropout(nn.Module):
    """In training, zeroes elements with probability `rate` (on a CPU rounded to a 256th) and scales the others up."""

    def __init__(self, rate: float) -> None:
        """Raises ValueError unless 0 <= rate < 1."""
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout rate must be at least 0 and below 1, got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Any shape and floating dtype; x itself where nothing is dropped."""
        if not self.training or self.rate == 0:
            return x
        if x.is_cuda:
            return functional.dropout(x, self.rate)
        dropped = min(round(256 * self.rate), 255)
        draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64)
        draws.random_(torch.iinfo(torch.int64).min, None, generator=_source.generator)
        keep = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * keep.to(x.dtype).mul_(256 / (256 - dropped))
