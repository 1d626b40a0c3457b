"""Training and measuring on a file under the paper's protocol."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from training.fitting.allocator import keep_freed_memory
from training.fitting.co_occurrence import start_embedding
from training.fitting.device import find_device
from training.fitting.evaluation import Metrics, evaluate
from training.fitting.fit import fit
from training.fitting.progress import ProgressBar
from training.fitting.recipe import NothingToLearn, Recipe
from training.fitting.recipes import Entry, Sizes
from training.log.holdout import leave_one_out
from training.log.interactions import read_file
from training.model.lrurec import LRURec, SequenceModel, Shape
from training.rivals.sasrec import SASRec, SASRecShape

Kind = Literal["lrurec", "sasrec"]


@dataclass(frozen=True)
class Result:
    """Of one training, or the means of several."""

    metrics: dict[str, float]
    """`recall_10`, `ndcg_10`, `recall_20`, `ndcg_20` on the test events"""
    validation: dict[str, float]
    """the same on the validation events, of the epoch that was kept"""
    minutes: float
    """of the training, with its validations"""

    @staticmethod
    def mean(results: Sequence["Result"]) -> "Result":
        """The mean of each figure."""

        def over(dictionaries: list[dict[str, float]]) -> dict[str, float]:
            return {name: float(np.mean([each[name] for each in dictionaries])) for name in dictionaries[0]}

        return Result(
            over([result.metrics for result in results]),
            over([result.validation for result in results]),
            float(np.mean([result.minutes for result in results])),
        )


class Reproduction:
    """A data set, held out as the paper did, on which models are trained.

    Raises:
        Refused: the file cannot be read.
        NothingToLearn: no user has the three events that the protocol needs.
    """

    def __init__(self, path: Path, known: Entry, threads: int, minutes: float | None = None) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._histories, self._known, self._minutes = read_file(path).histories, known, minutes
        self._holdout, self._device = leave_one_out(self._histories), find_device()
        if not self._holdout.test.events:
            raise NothingToLearn(f"nothing to test on: no user of {path} has three events")
        lengths = self._histories.users.lengths
        self.sizes = Sizes(
            len(lengths), len(self._histories.item_ids), int(lengths.sum()), int(np.quantile(lengths, 0.9))
        )

    def recipe(self, kind: Kind, seed: int = 0) -> Recipe:
        """How a model is trained here."""
        recipe = replace(self._known.recipe_for(self.sizes, kind), seed=seed)
        return replace(recipe, minutes=self._minutes) if self._minutes else recipe

    def train(self, kind: Kind, seed: int) -> Result:
        """Train a model, keep the epoch that is best on the validation events, and measure it on the test events."""
        recipe = self.recipe(kind, seed)
        torch.manual_seed(seed)
        model = self._model(kind, recipe).to(self._device.name)
        if recipe.co_occurrence:
            start_embedding(model, self._histories.items, self._holdout.train)
        began = time.monotonic()

        def validate(candidate: SequenceModel) -> Metrics:
            return evaluate(candidate, self._histories, self._holdout.validation, recipe.window, self._device)

        with ProgressBar(f"{kind}, seed {seed}") as watch:
            fitted = fit(
                model, self._histories, self._holdout.train, recipe, self._device, validate=validate, watch=watch
            )
        minutes = (time.monotonic() - began) / 60
        test = evaluate(model, self._histories, self._holdout.test, recipe.window, self._device)
        assert fitted.metrics is not None
        return Result(_named(test), _named(fitted.metrics), minutes)

    def _model(self, kind: Kind, recipe: Recipe) -> SequenceModel:
        items = len(self._histories.item_ids)
        if kind == "sasrec":
            return SASRec(SASRecShape(items, recipe.window), recipe.dropout)
        return LRURec(Shape(items), recipe.dropout)


def _named(metrics: Metrics) -> dict[str, float]:
    return {name.replace("_at_", "_"): value for name, value in asdict(metrics).items() if name != "events"}
