"""The training loop: AdamW, warm-up and cosine, early stopping on a validation metric, in one process or several."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from training.fitting import distributed
from training.fitting.checkpoint import Phase, Snapshot
from training.fitting.device import Device
from training.fitting.evaluation import Metrics
from training.fitting.learner import Epoch, Learner, Model, Outcome, identity_of
from training.fitting.recipe import NothingToLearn, Recipe
from training.fitting.step import backward
from training.log.histories import Histories, Spans
from training.log.windows import collate, cut, shuffled
from training.model.lrurec import SequenceModel

__all__ = ["Diverged", "Epoch", "Moment", "Outcome", "fit", "follow"]


@dataclass(frozen=True)
class Moment:
    """What there is to tell after a step or, with metrics, after an epoch."""

    progress: float
    """Share of the planned training that is done, 0 to 1."""
    epoch: int
    loss: float
    metrics: Metrics | None = None


class Diverged(ArithmeticError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class _Task:
    """A fit, as the processes that follow are sent it."""

    model: SequenceModel
    """On the CPU."""
    recipe: Recipe
    items: NDArray[np.int32]
    train: Spans
    snapshot: Snapshot


def fit(
    model: Model,
    histories: Histories,
    train: Spans,
    recipe: Recipe,
    device: Device,
    *,
    validate: Callable[[Model], Metrics] | None = None,
    watch: Callable[[Moment], None] | None = None,
    phase: Phase | None = None,
) -> Outcome:
    """Train the model in place on the spans `train`, keeping the parameters of the best epoch if there is validation.

    The learning rate follows a cosine over the planned epochs, or over the minutes if they run out first. The same
    seed, data and thread count give the same model, unless the recipe has minutes. With a `phase` of a checkpoint it
    goes on from where that was, if it was of this training, and keeps it up to date; the model is then the same as if
    nothing had happened.

    Raises:
        NothingToLearn: no user has two events to train on.
        Diverged: the loss became infinite or not a number.
        Lost: another process of the training has gone.
    """
    if not (train.lengths > 1).any():
        raise NothingToLearn("nothing to learn from: no user has two events to train on")
    learner = Learner(model, recipe, identity_of(model, histories, train, recipe) if phase else "")
    if phase and phase.saved:
        try:
            learner.restore(phase.saved)
        except ValueError as error:
            phase.drop(str(error))
    if distributed.size() > 1:
        own = copy.deepcopy(model).to("cpu")
        distributed.from_leader(_Task(own, recipe, histories.items, train, learner.snapshot()))
    try:
        return _go_on(learner, histories.items, train, device, validate, watch or (lambda _: None), phase)
    except Diverged as error:
        if phase:
            phase.drop(str(error))  # it would diverge again
        raise


def follow(device: Device) -> None:
    """Take part in the fits of rank 0 until it has done with them.

    Raises:
        Diverged: the loss became infinite or not a number.
        Lost: another process of the training has gone.
    """
    while (task := distributed.from_leader(None)) is not None:
        learner = Learner(task.model.to(device.name), task.recipe)
        learner.restore(replace(task.snapshot, facts=dict(task.snapshot.facts) | {"identity": ""}))
        _go_on(learner, task.items, task.train, device, None, lambda _: None, None)


def _go_on(
    learner: Learner[Model],
    items: NDArray[np.int32],
    train: Spans,
    device: Device,
    validate: Callable[[Model], Metrics] | None,
    watch: Callable[[Moment], None],
    phase: Phase | None,
) -> Outcome:
    recipe = learner.recipe
    began = time.monotonic() - learner.standing.seconds
    loss = 0.0
    while not learner.standing.finished:
        # Of seed and epoch alone, so that there are no generators to remember.
        random = np.random.default_rng((recipe.seed, learner.standing.epoch))
        windows = list(shuffled(cut(train, recipe.window, random), recipe.batch, random))
        learner.model.train()
        for span in windows[learner.standing.steps_of_epoch :]:
            at = learner.standing
            progress = _progress(at.epoch + at.steps_of_epoch / len(windows), time.monotonic() - began, recipe)
            loss = _step(learner, items, span, _learning_rate(progress, at.steps, recipe), device)
            learner.standing = replace(learner.standing, seconds=time.monotonic() - began)
            watch(Moment(progress, at.epoch, loss))
            if phase and phase.due:
                phase.write(learner.snapshot())
        epoch = learner.standing.epoch + 1
        progress = _progress(epoch, time.monotonic() - began, recipe)
        due = epoch % recipe.evaluate_every == 0 or progress == 1
        metrics = validate(learner.candidate) if validate and due else None
        best = learner.standing.best.metrics
        kept = validate is None or (metrics is not None and (best is None or metrics.recall_at_10 > best.recall_at_10))
        learner.end_epoch(sum(span.events - len(span) for span in windows), metrics, kept=kept)
        exhausted = metrics is not None and epoch - learner.standing.best.epochs >= recipe.patience
        finished = distributed.from_leader(progress == 1 or exhausted)
        learner.standing = replace(learner.standing, finished=finished, seconds=time.monotonic() - began)
        watch(Moment(progress, epoch, loss, metrics))
    outcome = learner.finish()
    if phase:
        phase.finish(learner.snapshot())
    return outcome


def _step(
    learner: Learner[Model], items: NDArray[np.int32], windows: Spans, learning_rate: float, device: Device
) -> float:
    """One step of the optimiser; the loss before it."""
    at, recipe = learner.standing, learner.recipe
    torch.manual_seed(_seed(recipe.seed, at.steps, distributed.rank()))
    tokens = windows.events - len(windows)
    share, parameters = distributed.share(windows), list(learner.model.parameters())
    loss = 0.0
    if len(share):
        weight = (share.events - len(share)) / tokens
        loss = weight * backward(learner.model, collate(items, share), device, recipe)
    else:
        weight = 0.0
        learner.optimizer.zero_grad(set_to_none=False)
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        elif weight != 1:
            parameter.grad *= weight
        gradients.append(parameter.grad)
    # The learning rate is rank 0's: with minutes it depends on the clock.
    loss, learning_rate = distributed.add_up(gradients, [loss, 0.0 if distributed.rank() else learning_rate])
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss}: lower the learning rate ({recipe.learning_rate})")
    learner.update(learning_rate)
    learner.standing = replace(
        at,
        steps=at.steps + 1,
        steps_of_epoch=at.steps_of_epoch + 1,
        loss=at.loss + loss * tokens,
        learning_rate=learning_rate,
    )
    return loss


def _seed(seed: int, steps: int, rank: int) -> int:
    """Of a step's dropout: of its own, so that there are no generators to remember."""
    return int(np.random.SeedSequence((seed, steps, rank)).generate_state(1, np.uint64)[0])


def _progress(epochs: float, seconds: float, recipe: Recipe) -> float:
    return min(1.0, max(epochs / recipe.epochs, seconds / (60 * recipe.minutes) if recipe.minutes else 0.0))


def _learning_rate(progress: float, steps: int, recipe: Recipe) -> float:
    rise = min(1.0, max((steps + 1) / max(1, recipe.warmup_steps), 3 * progress))
    return recipe.learning_rate * rise * (1 + math.cos(math.pi * progress)) / 2
