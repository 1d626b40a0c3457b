"""The recipe of a data set: the one in `recipes.toml`, or what follows from its size and sparsity."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from training.fitting.recipe import Recipe

FILE: Final = Path(__file__).with_name("recipes.toml")

SPARSE_PER_ITEM: Final = 30
"""events of an item, on average, below which data are sparse"""
TOKENS_PER_STEP: Final = 4600
LARGE_CATALOGUE: Final = 16_384
NEGATIVES: Final = 4096


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
        ours = replace(ours, ahead=tuple(ours.ahead))  # TOML has lists only
        return replace(ours, **self.sasrec) if model == "sasrec" else ours


def entries() -> dict[str, Entry]:
    """Everything in `recipes.toml`, by the data set's name."""
    return {name: Entry(**known) for name, known in tomllib.loads(FILE.read_text()).items()}


def by_size(sizes: Sizes) -> Recipe:
    """What suits a data set of these sizes; near those of MovieLens 1M and Beauty for theirs.

    The more events an item has, the less must be dropped so that the model does not learn its few events by heart, the
    more epochs it can learn from, and the less it needs the events further ahead. The longer histories are, the longer
    the windows, and the fewer of them make a step of some thousand tokens. A large catalogue is drawn from.
    """
    per_item = sizes.events / sizes.items
    sparse = per_item < SPARSE_PER_ITEM
    window = min(max(sizes.longest, 50), 400)
    windows = round(TOKENS_PER_STEP * sizes.users / sizes.events)
    return Recipe(
        window=window,
        batch=min(max(windows, 8), 256),
        epochs=round(min(max(8.9 + 6.1 * math.log10(per_item), 10), 30)),
        learning_rate=5e-3 if sparse else 4e-3,
        warmup_steps=400 if sparse else 800,
        dropout=round(min(max(0.858 - 0.307 * math.log10(per_item), 0.1), 0.7), 2),
        ahead=(0.5, 0.25) if sparse else (),
        negatives=NEGATIVES if sizes.items > LARGE_CATALOGUE else None,
        ema=0.999 if sparse else 0.9995,
        evaluate_every=4,
        patience=12,
    )
