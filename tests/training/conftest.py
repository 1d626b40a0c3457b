"""A small log with a pattern that a model can learn: every user walks a ring of items, some of them twice."""

import os
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from training.log.histories import Histories, HistoryBuilder
from training.model import kernels
from training.model.lrurec import LRURec, Shape
from training.model.seen import Mask

if not torch.cuda.is_available():  # read when Triton is imported, which the compiled layers of SASRec may do
    os.environ.setdefault("TRITON_INTERPRET", "1")

RING = 12


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """More threads only wait for each other on arrays as small as these."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of the archive open one of their own."""
    monkeypatch.setenv("RECOMMENDER_ARCHIVE", "")


@pytest.fixture
def gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Within it, the kernels in Triton compute: on a GPU, which is the default device then, else interpreted."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        found = kernels.gpu_kernels_for(torch.zeros(1, device="cuda"))
        assert found
        with torch.device("cuda"):
            yield found
        return
    from training.model import gpu_kernels

    softmax, half = gpu_kernels.softmax, {torch.bfloat16: torch.float16}

    def in_float16(
        query: Tensor, embedding: Tensor, bias: Tensor, mass: Tensor, dtype: torch.dtype, mask: Mask | None
    ) -> tuple[Tensor, ...]:
        """The interpreter multiplies bfloat16 as if they were integers."""
        return softmax(query, embedding, bias, mass, half.get(dtype, dtype), mask)

    monkeypatch.setattr(kernels, "gpu_kernels_for", lambda x: gpu_kernels if x.dtype in kernels.NAMES else None)
    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr(gpu_kernels, "PROGRAMS", 3)
    monkeypatch.setattr(gpu_kernels, "softmax", in_float16)
    yield gpu_kernels


@pytest.fixture(scope="session")
def ring() -> Histories:
    builder = HistoryBuilder()
    for time in range(40):
        for user in range(24):
            if time < 10 + user:
                builder.add(f"user {user}", f"item {(user + time) % RING}", 1000 * time)
    return builder.build()


@pytest.fixture
def small_model() -> LRURec:
    torch.manual_seed(0)
    return LRURec(Shape(items=RING, width=16, units=8)).eval()
