"""That the kernels in Triton compile for GPUs; what they compute is proved beside the scan and the softmax."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from training.model import kernels

COMPILE = """
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from training.model import gpu_kernels

capability = int(sys.argv[1])
FLOATS = ["decay", "of_decay", "bias", "mass", "expected", "normaliser", "sums", "bias_sums"]
POINTERS = dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(["inputs", "states", "before", "queries", "rows"], "*bf16")
POINTERS |= {"offsets": "*i64", "lengths": "*i64", "lane": "*i64", "time": "*i32", "first": "*i32"}
SIZES = {"UNITS": 128, "STEPS": gpu_kernels.STEPS_PER_TILE, "BLOCK": gpu_kernels.UNITS_PER_TILE}
SIZES |= {"POSITIONS": gpu_kernels.POSITIONS_PER_TILE, "ITEMS": gpu_kernels.ITEMS_PER_TILE, "WIDTH": 64, "COLUMNS": 64}
for kernel, left_out in [
    (gpu_kernels._scan, ["before", "of_decay"]),
    (gpu_kernels._scan, []),
    (gpu_kernels._of_positions, []),
    (gpu_kernels._of_items, []),
]:
    constants = {name: SIZES[name] for name in kernel.arg_names if name in SIZES} | dict.fromkeys(left_out)
    signature = {
        name: "constexpr" if name in constants else POINTERS.get(name, "i32") for name in kernel.arg_names
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    print(kernel.__name__, len(compiled.asm["cubin"]), compiled.metadata.shared)
"""


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_a_gpu_that_is_not_here(capability: int, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    compiled = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, str(capability)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr[-2000:]
    lines = [line.split() for line in compiled.stdout.splitlines()]
    assert [name for name, *_ in lines] == ["_scan", "_scan", "_of_positions", "_of_items"]
    for _, size, shared in lines:
        assert int(size) > 1000
        assert int(shared) <= 99 * 1024  # what a program may share on the smallest of them


def test_kernels_that_work_pass_their_probe(gpu_kernels: ModuleType) -> None:
    gpu_kernels.probe(torch.get_default_device().type)


@pytest.mark.parametrize("kernel", ["scan", "scan_back", "softmax"])
def test_the_probe_finds_a_kernel_that_computes_something_else(
    kernel: str, gpu_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    right: Callable[..., Tensor | tuple[Tensor, ...]] = getattr(gpu_kernels, kernel)

    def wrong(*given: object) -> Tensor | tuple[Tensor, ...]:
        found = right(*given)
        return 1.2 * found if isinstance(found, Tensor) else (1.2 * found[0], *found[1:])

    monkeypatch.setattr(gpu_kernels, kernel, wrong)
    with pytest.raises(AssertionError, match="not close"):
        gpu_kernels.probe(torch.get_default_device().type)


def test_training_goes_on_without_them_where_they_cannot_run() -> None:
    """As on a GPU without a driver: here the probe finds none."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("they can run here")
    kernels._gpu_kernels.cache_clear()
    with capture_logs() as told:
        assert kernels._gpu_kernels() is None
    kernels._gpu_kernels.cache_clear()
    (line,) = told
    assert line["log_level"] == "warning"
    assert line["error"]
