"""The training loop: AdamW, warm-up and cosine, early stopping on a validation metric."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from training.device import Device
from training.evaluation import Metrics
from training.histories import Histories, Spans
from training.model import SequenceModel
from training.recipe import NothingToLearn, Recipe
from training.step import backward
from training.windows import Batch, collate, cut, shuffled

Model = TypeVar("Model", bound=SequenceModel)

AVERAGED_STEPS = 10
"""The decay of an average rises to the recipe's as steps / (steps + this): it forgets the first steps soon."""


@dataclass(frozen=True)
class Moment:
    """What there is to tell after a step or, with metrics, after an epoch."""

    progress: float
    """Share of the planned training that is done, 0 to 1."""
    epoch: int
    loss: float
    metrics: Metrics | None = None


@dataclass(frozen=True)
class Epoch:
    """One point of a training's curve."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over the tokens of the epoch, each with the parameters it was trained with."""
    learning_rate: float
    """Of the epoch's last step."""
    metrics: Metrics | None
    """Of the validation that followed, if one did."""


@dataclass(frozen=True)
class Outcome:
    """A finished training. The model itself was changed in place and holds the best epoch's parameters."""

    epochs: int
    """Epochs of the parameters that were kept."""
    steps: int
    seconds: float
    metrics: Metrics | None
    """Validation metrics of the parameters that were kept; None without validation."""
    curve: tuple[Epoch, ...] = ()
    """Every epoch that was trained, also those after the kept one."""


class Diverged(ArithmeticError):
    """The loss is no longer a number."""


def fit(
    model: Model,
    histories: Histories,
    train: Spans,
    recipe: Recipe,
    device: Device,
    *,
    validate: Callable[[Model], Metrics] | None = None,
    watch: Callable[[Moment], None] | None = None,
) -> Outcome:
    """Train the model in place on the spans `train`, keeping the parameters of the best epoch if there is validation.

    The learning rate follows a cosine over the planned epochs, or over the minutes if they run out first. The same
    seed, data and thread count give the same model, unless the recipe has minutes.

    Raises:
        NothingToLearn: no user has two events to train on.
        Diverged: the loss became infinite or not a number.
    """
    if not (train.lengths > 1).any():
        raise NothingToLearn("nothing to learn from: no user has two events to train on")
    random = np.random.default_rng(recipe.seed)
    torch.manual_seed(recipe.seed)
    optimizer = _optimizer(model, recipe)
    began, steps, best, best_state = time.monotonic(), 0, Outcome(0, 0, 0.0, None), None
    average = copy.deepcopy(model) if recipe.ema else None
    kept = average or model
    progress, epoch, exhausted, curve = 0.0, 0, False, list[Epoch]()
    while progress < 1 and not exhausted:
        windows = list(shuffled(cut(train, recipe.window, random), recipe.batch, random))
        total, tokens = 0.0, 0
        model.train()
        for nth, span in enumerate(windows):
            progress = _progress(epoch + nth / len(windows), time.monotonic() - began, recipe)
            learning_rate = _learning_rate(progress, steps, recipe)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            batch = collate(histories.items, span)
            loss = _step(model, optimizer, batch, recipe, device)
            if average and recipe.ema:
                _follow(average, model, min(recipe.ema, steps / (steps + AVERAGED_STEPS)))
            total, tokens = total + loss * len(batch.inputs), tokens + len(batch.inputs)
            steps += 1
            if watch:
                watch(Moment(progress, epoch, loss))
        epoch += 1
        progress = _progress(epoch, time.monotonic() - began, recipe)
        due = epoch % recipe.evaluate_every == 0 or progress == 1
        metrics = validate(kept) if validate and due else None
        if watch:
            watch(Moment(progress, epoch, loss, metrics))
        curve.append(Epoch(epoch, total / tokens, learning_rate, metrics))
        if validate is None or (metrics and (best.metrics is None or metrics.recall_at_10 > best.metrics.recall_at_10)):
            best = Outcome(epoch, steps, time.monotonic() - began, metrics)
            best_state = copy.deepcopy(kept.state_dict()) if metrics else None
        exhausted = metrics is not None and epoch - best.epochs >= recipe.patience
    if best_state or average:
        model.load_state_dict(best_state or kept.state_dict())
    model.eval()
    return replace(best, curve=tuple(curve))


def _progress(epochs: float, seconds: float, recipe: Recipe) -> float:
    return min(1.0, max(epochs / recipe.epochs, seconds / (60 * recipe.minutes) if recipe.minutes else 0.0))


def _learning_rate(progress: float, steps: int, recipe: Recipe) -> float:
    rise = min(1.0, max((steps + 1) / max(1, recipe.warmup_steps), 3 * progress))
    return recipe.learning_rate * rise * (1 + math.cos(math.pi * progress)) / 2


def _optimizer(model: SequenceModel, recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


@torch.no_grad()
def _follow(average: SequenceModel, model: SequenceModel, decay: float) -> None:
    for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(parameter, 1 - decay)


def _step(
    model: SequenceModel, optimizer: torch.optim.Optimizer, batch: Batch, recipe: Recipe, device: Device
) -> float:
    """One step of the optimiser; the loss before it."""
    loss = backward(model, batch, device)
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss}: lower the learning rate ({recipe.learning_rate})")
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimizer.step()
    return loss
