"""A model with its optimiser and where its training stands: all that a training must remember to go on."""

import copy
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from training.fitting.checkpoint import Snapshot
from training.fitting.evaluation import Metrics
from training.fitting.recipe import Recipe
from training.log.histories import Histories, Spans
from training.model.lrurec import SequenceModel

Model = TypeVar("Model", bound=SequenceModel)

AVERAGED_STEPS = 10
"""The decay of an average rises to the recipe's as steps / (steps + this): it forgets the first steps soon."""


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


@dataclass(frozen=True)
class Standing:
    """How far a training has come."""

    epoch: int = 0
    """Epochs that are done, validation included."""
    steps_of_epoch: int = 0
    steps: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    """Sum over the tokens of the epoch under way."""
    learning_rate: float = 0.0
    """Of the last step."""
    best: Outcome = Outcome(0, 0, 0.0, None)
    curve: tuple[Epoch, ...] = ()
    finished: bool = False


_STANDING = TypeAdapter(Standing)


class Learner(Generic[Model]):
    """A model that is being trained."""

    def __init__(self, model: Model, recipe: Recipe, identity: str = "") -> None:
        """Start from the model's parameters; `identity` says of what training a snapshot is."""
        self.model, self.recipe, self.identity = model, recipe, identity
        self.average = copy.deepcopy(model) if recipe.ema else None
        self.optimizer = _optimizer(model, recipe)
        self.best: dict[str, Tensor] = {}
        """Parameters of the best epoch so far; empty before the first validation."""
        self.standing = Standing()

    @property
    def candidate(self) -> Model:
        """What is validated and kept: the average over the steps, if there is one."""
        return self.average or self.model

    def update(self, learning_rate: float) -> None:
        """One step of the optimiser along the parameters' `grad`."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        if self.average and self.recipe.ema:
            steps = self.standing.steps
            _follow(self.average, self.model, min(self.recipe.ema, steps / (steps + AVERAGED_STEPS)))

    def end_epoch(self, tokens: int, metrics: Metrics | None, *, kept: bool) -> None:
        """Note an epoch of this many tokens; `kept` if its parameters are the best so far."""
        at = self.standing
        number = at.epoch + 1
        curve = (*at.curve, Epoch(number, at.loss / tokens, at.learning_rate, metrics))
        best = Outcome(number, at.steps, at.seconds, metrics) if kept else at.best
        self.standing = replace(at, epoch=number, steps_of_epoch=0, loss=0.0, best=best, curve=curve)
        if kept and metrics:
            self.best = _copied(self.candidate)

    def finish(self) -> Outcome:
        """Leave the parameters that are kept in the model, in evaluation mode."""
        if not self.best:
            self.best = _copied(self.candidate)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return replace(self.standing.best, curve=self.standing.curve)

    def snapshot(self) -> Snapshot:
        """Where the training stands: the tensors are the ones in use, not copies.

        Of a finished training only what was kept.
        """
        parts = {"best": self.best}
        if not self.standing.finished:
            parts["model"] = self.model.state_dict()
            if self.average:
                parts["average"] = self.average.state_dict()
            for number, moments in self.optimizer.state_dict()["state"].items():
                parts[f"optimizer.{number}"] = moments
        tensors = {f"{part}:{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        return Snapshot(tensors, {"identity": self.identity, "standing": _STANDING.dump_python(self.standing)})

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of the same training.

        Raises:
            ValueError: it is of another training.
        """
        if snapshot.facts["identity"] != self.identity:
            raise ValueError("the data or the recipe are others than at the checkpoint")
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in snapshot.tensors.items():
            part, _, name = key.partition(":")
            parts.setdefault(part, {})[name] = tensor
        self.standing = _STANDING.validate_python(snapshot.facts["standing"])
        device = self.model.embedding.weight.device
        self.best = {name: tensor.to(device) for name, tensor in parts.pop("best", {}).items()}
        if self.standing.finished:
            return
        self.model.load_state_dict(parts.pop("model"))
        if self.average:
            self.average.load_state_dict(parts.pop("average"))
        state = {int(part.partition(".")[2]): moments for part, moments in parts.items()}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})


def identity_of(model: SequenceModel, histories: Histories, train: Spans, recipe: Recipe) -> str:
    """A digest of all that determines a training but its first parameters."""
    shapes = {name: list(parameter.shape) for name, parameter in model.state_dict().items()}
    digest = hashlib.sha256(json.dumps([asdict(recipe), shapes, histories.item_ids]).encode())
    for array in (histories.items, train.begin, train.end):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _optimizer(model: SequenceModel, recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


@torch.no_grad()
def _follow(average: SequenceModel, model: SequenceModel, decay: float) -> None:
    for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(parameter, 1 - decay)


def _copied(model: SequenceModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
