"""The recipe of a data set: the one in `recipes.toml`, or what follows from its size and sparsity."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from training.fitting.recipe import Recipe

FILE: Final = Path(__file__).with_name("recipes.toml")


@dataclass(frozen=True)
class Sizes:
    """What of a data set decides how it is trained."""

    users: int
    items: int
    events: int
    longest: int
    """Events of the 90th percentile of the users."""


@dataclass(frozen=True)
class Entry:
    """What is known of a data set by its name."""

    recipe: Mapping[str, Any] | None = None
    """fields of `Recipe` that differ from its defaults; None for what follows from the sizes"""
    sasrec: Mapping[str, Any] = field(default_factory=dict)
    """fields that differ for SASRec"""
    paper: Mapping[str, float] | None = None
    """`recall_10`, `ndcg_10`, `recall_20`, `ndcg_20` of the paper's table"""

    def recipe_for(self, sizes: Sizes, model: str = "lrurec") -> Recipe:
        """How `model` is trained on a data set of these sizes."""
        ours = by_size(sizes) if self.recipe is None else replace(Recipe(), **self.recipe)
        return replace(ours, **self.sasrec) if model == "sasrec" else ours


def entries() -> dict[str, Entry]:
    """Everything in `recipes.toml`, by the data set's name."""
    return {name: Entry(**known) for name, known in tomllib.loads(FILE.read_text()).items()}


def by_size(sizes: Sizes) -> Recipe:
    """What suits a data set of these sizes.

    The more events an item has, the less must be dropped so that the model does not learn its few events by heart; the
    longer histories are, the longer the windows, and the fewer of them make a step of some thousand tokens.
    """
    per_item = sizes.events / sizes.items
    window = min(max(sizes.longest, 50), 200)
    return Recipe(
        window=window,
        batch=64 if window >= 100 else 256,
        epochs=44 if per_item > 30 else 16,
        learning_rate=5e-3,
        warmup_steps=400,
        dropout=round(min(max(0.85 - 0.265 * math.log10(per_item), 0.2), 0.7), 2),
        ema=0.999,
        evaluate_every=4,
        patience=12,
    )
