from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.model import kernels
from training.model import scan as module
from training.model.packing import Packing, pack
from training.model.scan import scan, turn

UNITS = 5
BATCHES: tuple[list[int], ...] = ([], [0], [1], [0, 1, 0], [7], [3, 0, 8, 1, 8], [200, 101, 17, 2], [255, 256, 257])


def loop(decay: Tensor, inputs: Tensor, packing: Packing, initial: Tensor) -> Tensor:
    """The recurrence as it is written, one sequence after the other: slow and clear."""
    states: list[Tensor] = [torch.empty(0)] * len(inputs)
    for lane, length in enumerate(packing.lengths):
        state = initial[lane]
        for time in range(length):
            token = packing.offsets[time] + lane
            state = states[token] = turn(decay, state) + inputs[token]
    return torch.stack(states) if states else inputs


def draw(lengths: list[int], dtype: torch.dtype) -> tuple[Packing, Tensor, Tensor, Tensor]:
    packing = pack(lengths)
    torch.manual_seed(0)
    phase, radius = torch.rand(2, UNITS, dtype=torch.float64)
    turning = torch.polar(0.8 + 0.19 * radius, 6 * phase)
    decay = torch.cat((turning.real, turning.imag)).to(dtype)
    inputs = torch.randn(len(packing.time), 2 * UNITS, dtype=dtype)
    return packing, decay, inputs, torch.randn(len(lengths), 2 * UNITS, dtype=dtype)


@pytest.fixture(params=["kernel", "sweep", "double", "gpu kernel"])
def schedule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All schedules run behind `scan`, whatever the device."""
    if request.param == "gpu kernel":
        request.getfixturevalue("gpu_kernels")
        return
    if request.param == "kernel":
        if kernels.library() is None:
            pytest.skip("no C++ compiler")
        return
    monkeypatch.setattr("training.model.kernels.library", lambda: None)
    for name in ("sweep", "double"):
        monkeypatch.setattr(f"training.model.scan.{name}", getattr(module, request.param))


@pytest.mark.usefixtures("schedule")
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_a_scan_gives_the_states_of_the_plain_loop(lengths: list[int]) -> None:
    packing, decay, inputs, initial = draw(lengths, torch.float32)
    torch.testing.assert_close(
        scan(decay, inputs, packing, initial), loop(decay, inputs, packing, initial), atol=1e-5, rtol=1e-5
    )


@pytest.mark.usefixtures("schedule")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", BATCHES[1:-1], ids=str)
def test_a_scan_has_the_gradients_of_the_plain_loop(lengths: list[int], dtype: torch.dtype) -> None:
    packing, *tensors = draw(lengths, dtype)

    def gradients(recurrence: Callable[[Tensor, Tensor, Packing, Tensor], Tensor]) -> list[Tensor]:
        decay, inputs, initial = leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        states = recurrence(decay, inputs, packing, initial)
        weights = torch.arange(states.numel()).view_as(states) % 7 - 3
        loss = (weights * states * states).mean() + sum(leaf.abs().sum() for leaf in leaves)
        return list(torch.autograd.grad(loss, leaves))

    tolerance = {"atol": 1e-3, "rtol": 1e-3} if dtype == torch.float32 else {}
    torch.testing.assert_close(gradients(scan), gradients(loop), **tolerance)


@pytest.mark.usefixtures("schedule")
def test_bfloat16_goes_in_and_out_and_the_state_between_steps_is_float32() -> None:
    packing, decay, inputs, _ = draw([300, 7], torch.float32)
    narrow = inputs.to(torch.bfloat16)
    states = scan(decay, narrow, packing)
    assert states.dtype == torch.bfloat16
    exact = scan(decay, narrow.float(), packing)
    step = 2**-7  # of bfloat16: Triton's interpreter truncates
    torch.testing.assert_close(states, exact.to(torch.bfloat16), atol=1e-5, rtol=step)


def test_a_scan_without_an_initial_state_starts_from_zero() -> None:
    packing, decay, inputs, initial = draw([4, 2, 0], torch.float32)
    torch.testing.assert_close(scan(decay, inputs, packing), loop(decay, inputs, packing, torch.zeros_like(initial)))
