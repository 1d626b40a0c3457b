"""What a step of training costs each rival: forward, backward and optimiser, timed in turn, in one process."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal, get_args

import torch
from torch import nn
from torch.autograd import profiler

from training.fitting.device import Device
from training.fitting.recipe import Recipe
from training.fitting.step import backward
from training.log.windows import collate
from training.model.lrurec import LRURec, SequenceModel, Shape
from training.rivals.authors import AuthorsLRURec, padded, with_parameters
from training.rivals.sasrec import SASRec, SASRecShape
from training.rivals.workload import Workload

Rival = Literal["authors", "sasrec", "ours"]
RIVALS: Final[tuple[Rival, ...]] = get_args(Rival)

PLACES_CPU, PLACES_GPU = 2**16, 2**19
"""Places, padding included, of the authors' batch that memory has room for: at 3,416 items and 2^16, about 6 GiB."""
FEWEST_RUNS = 2

Step = Callable[[Workload], None]
"""A step of training on all windows of a workload, of one model."""


@dataclass(frozen=True)
class Cost:
    """What one rival's step on one workload takes."""

    milliseconds: float
    """median"""
    mib: float | None
    """allocated at the peak beyond what was before the step; None if not measured"""
    runs: int
    share: float
    """of the workload's tokens that were measured; the cost is scaled to all of them"""


def compare(workload: Workload, device: Device, *, runs: int, budget_s: float, memory: bool) -> dict[Rival, Cost]:
    """The cost of a step of every rival: the median of `runs` steps, one of each rival in turn.

    A rival that has taken `budget_s` runs no more, but at least twice. Peak memory, if wanted, is one more step's.
    """
    parts = {rival: fitting(rival, workload, device) for rival in RIVALS}
    seconds = time_in_turn(parts, device, runs, budget_s)
    mib = {rival: peak_mib(rival, part, device) if memory else None for rival, part in parts.items()}
    costs = {}
    for rival, part in parts.items():
        share, taken, peak = part.tokens / workload.tokens, seconds[rival], mib[rival]
        milliseconds = 1000 * statistics.median(taken) / share
        costs[rival] = Cost(milliseconds, None if peak is None else peak / share, len(taken), share)
    return costs


def fitting(rival: Rival, workload: Workload, device: Device) -> Workload:
    """As much of the workload as the rival has room for: all of it, but for the authors' logits."""
    places = PLACES_GPU if device.name == "cuda" else PLACES_CPU
    return workload.first(places // workload.padded_length) if rival == "authors" else workload


def time_in_turn(
    workloads: Mapping[Rival, Workload], device: Device, runs: int, budget_s: float
) -> dict[Rival, list[float]]:
    """Seconds of each rival's steps, after one that is not counted."""
    steps = {rival: new_step(rival, workload, device) for rival, workload in workloads.items()}
    seconds: dict[Rival, list[float]] = {rival: [] for rival in workloads}
    for rival, step in steps.items():
        _seconds(step, workloads[rival], device)
    for _ in range(runs):
        for rival, step in steps.items():
            if len(seconds[rival]) < FEWEST_RUNS or sum(seconds[rival]) < budget_s:
                seconds[rival].append(_seconds(step, workloads[rival], device))
    return seconds


def peak_mib(rival: Rival, workload: Workload, device: Device) -> float:
    """MiB that PyTorch has allocated at the peak of a step, beyond what a model with its optimiser had before.

    On a CPU the bytes are counted that every operation takes and gives back, on a single thread: they are the same each
    time. What a process occupies is not: it depends on what the system has compressed, freed or kept for it.
    """
    step = new_step(rival, workload, device)
    if device.name == "cuda":
        step(workload.first(1))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(workload)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the profiler follows no other thread than the one that started it
    try:
        step(workload.first(1))
        with profiler.profile(profile_memory=True) as profile:
            step(workload)
    finally:
        torch.set_num_threads(threads)
    changes = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    most: int = max(accumulate((event.nbytes() for event in changes), initial=0))
    return most / 2**20


def new_step(rival: Rival, workload: Workload, device: Device) -> Step:
    """Of a new model for this length and catalogue."""
    torch.manual_seed(0)
    shape = Shape(workload.items)
    if rival == "authors":
        return _authors(with_parameters(shape, LRURec(shape).state_dict()), device)
    if rival == "sasrec":
        return _packed(SASRec(SASRecShape(workload.items, workload.length)), device)
    return _packed(LRURec(shape), device)


def _packed(model: SequenceModel, device: Device) -> Step:
    """As `training.fitting.fit` does it."""
    recipe = Recipe()
    model.to(device.name).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay, fused=True)

    def step(workload: Workload) -> None:
        backward(model, collate(workload.events, workload.windows), device, recipe)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()

    return step


def _authors(model: AuthorsLRURec, device: Device) -> Step:
    recipe = Recipe()
    model.to(device.name).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay)

    def step(workload: Workload) -> None:
        items, targets = padded(collate(workload.events, workload.windows), workload.length)
        optimizer.zero_grad()
        torch.autograd.backward(model.loss(items.to(device.name), targets.to(device.name)))
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()

    return step


def _seconds(step: Step, workload: Workload, device: Device) -> float:
    began = time.perf_counter()
    step(workload)
    if device.name == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
