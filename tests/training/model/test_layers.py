"""The compiled layers against PyTorch's, dropout included: its bits are a hash that numpy can compute too."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.model import kernels
from training.model.layers import Gelu, ResidualNorm

SEED = 0xDEADBEEF
RATES = (0.0, 0.3)
SHAPES = ((1, 64), (37, 64), (5, 1), (11, 48))

if kernels.library() is None:  # where there is no compiler, the layers are PyTorch's
    pytest.skip("no C++ compiler", allow_module_level=True)


def keep(shape: tuple[int, ...], rate: float) -> Tensor:
    """What dropout multiplies each element with: Chris Wellons' lowbias32 of its index."""
    with np.errstate(over="ignore"):
        x = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(SEED)
        x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
        x ^= x >> 16
    return torch.from_numpy(np.where(x < round(rate * 2**32), 0, 1 / (1 - rate)).astype(np.float32)).view(shape)


def results(layer: Callable[..., Tensor], parameters: list[Tensor], *inputs: Tensor) -> list[Tensor]:
    """Output and gradients."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = layer(*leaves)
    weights = torch.linspace(-1, 2, out.numel()).view_as(out)
    return [out.detach().float(), *(g.float() for g in torch.autograd.grad((out * weights).sum(), leaves + parameters))]


@pytest.fixture(autouse=True)
def same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.model.layers.draw_seed", lambda: SEED)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_gelu(shape: tuple[int, int], rate: float, dtype: torch.dtype, tolerance: float) -> None:
    x = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    expected = results(lambda x: functional.gelu(x.float()) * keep(shape, rate), [], x)
    torch.testing.assert_close(results(Gelu(rate), [], x), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.bfloat16, 2e-2)])
def test_residual_norm(shape: tuple[int, int], rate: float, dtype: torch.dtype, tolerance: float) -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, *shape, generator=random).unbind()
    layer = ResidualNorm(shape[1], rate)
    nn.init.normal_(layer.weight, generator=random)
    nn.init.normal_(layer.bias, generator=random)
    parameters = [layer.weight, layer.bias]

    def plain(x: Tensor, y: Tensor) -> Tensor:
        return functional.layer_norm(x + y.float() * keep(shape, rate), shape[1:], *parameters)

    expected = results(plain, parameters, x, y.to(dtype))
    found = results(layer, parameters, x, y.to(dtype))
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_the_hash_drops_as_many_as_it_should_and_evaluation_drops_nothing() -> None:
    ones = torch.full((1000, 64), 10.0)
    assert (Gelu(0.3)(ones) == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(Gelu(0.3).eval()(ones), ones)


def test_another_seed_drops_others(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = torch.ones(1000, 8)
    first = Gelu(0.5)(ones) == 0
    monkeypatch.setattr("training.model.layers.draw_seed", lambda: SEED + 1)
    assert ((Gelu(0.5)(ones) == 0) == first).float().mean() == pytest.approx(0.5, abs=0.03)
