"""Several processes of one training, started by torchrun: gloo between CPUs, NCCL between GPUs.

The first process, rank 0, is the training: it reads the log, validates, writes and announces, as if it were alone. The
others only follow its fits. At the beginning of each they are sent what it has, and from then on all make the same
steps, each with the gradient of its share of the batch. Alone, or without torchrun, everything here does nothing.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from training.log.histories import Spans

STEP_TIMEOUT: Final = timedelta(minutes=10)
"""A process that keeps the others waiting for longer in the middle of a step is lost. One that ends is noticed at
once."""
TASK_TIMEOUT: Final = timedelta(days=30)
"""For what only rank 0 does while the others wait: reading, validating, sleeping until the next retraining."""
BUCKET_BYTES: Final = 32 << 20
"""Small gradients are summed together, up to about this size."""

_control: dist.ProcessGroup | None = None


class Lost(RuntimeError):
    """Another process of the training has gone."""


@contextmanager
def joined() -> Iterator[None]:
    """Within it, this process trains together with the others that torchrun started, if it did.

    Raises:
        Lost: another process ended, or did not answer in time.
    """
    global _control
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _told():
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=STEP_TIMEOUT)
        _control = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=TASK_TIMEOUT))
    try:
        yield
    finally:
        _control = None
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 leads."""
    return dist.get_rank() if _control else 0


def size() -> int:
    """How many processes train."""
    return dist.get_world_size() if _control else 1


def threads(of_host: int) -> int:
    """Threads of this process, where all processes of a host together should have `of_host`."""
    return max(1, of_host // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def from_leader(thing: Any) -> Any:
    """What rank 0 calls this with, in all processes; the others wait for it."""
    if size() == 1:
        return thing
    things = [thing]
    with _told():
        dist.broadcast_object_list(things, group=_control)
    return things[0]


def share(windows: Spans) -> Spans:
    """This process's share of a batch; the shares' tokens differ by no more than the longest window has."""
    return windows[dealt(windows.lengths, size(), rank())]


def dealt(lengths: NDArray[np.int64], ranks: int, nth: int) -> NDArray[np.int64]:
    """Which of the sequences are for the `nth` of the ranks: dealt out longest first, back and forth."""
    order = np.argsort(-lengths, kind="stable")
    turn = np.arange(len(order)) % (2 * ranks)
    chosen: NDArray[np.int64] = order[np.minimum(turn, 2 * ranks - 1 - turn) == nth]
    return chosen


def add_up(gradients: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
    """Sum gradients over the processes, in place, and numbers along with them.

    All processes must call it with the same shapes, and all get the same sums to the last bit.

    Raises:
        Lost: another process ended, or did not answer in time.
    """
    if size() == 1:
        return list(numbers)
    totals = torch.tensor(numbers, dtype=torch.float64, device=gradients[0].device)
    buckets = list(_buckets(gradients))
    flat = [torch.cat([gradient.reshape(-1) for gradient in bucket]) for bucket in buckets]
    with _told():
        for work in [dist.all_reduce(summed, async_op=True) for summed in (totals, *flat)]:
            work.wait()
    for bucket, summed in zip(buckets, flat, strict=True):
        parts = summed.split_with_sizes([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
    return [float(total) for total in totals.tolist()]


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size_bytes = 0
    for gradient in gradients:
        if bucket and size_bytes + gradient.nbytes > BUCKET_BYTES:
            yield bucket
            bucket, size_bytes = [], 0
        bucket.append(gradient)
        size_bytes += gradient.nbytes
    if bucket:
        yield bucket


@contextmanager
def _told() -> Iterator[None]:
    """Say in one line what it means when the others do not answer."""
    try:
        yield
    except RuntimeError as error:
        found = str(error).splitlines()[0]
        raise Lost(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: another process of this training ended, or is "
            f"stuck; see its own message ({found})"
        ) from error
