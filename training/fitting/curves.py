"""The curves of a training, short enough for a manifest: it is announced on Kafka, as one record."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from training.fitting.fit import Epoch

MAX_POINTS: Final = 100
"""of a curve; longer ones are thinned out evenly. All curves of a training are then below 10 KB of JSON."""


def curves(epochs: Sequence[Epoch], prefix: str = "") -> dict[str, list[float]]:
    """Loss, learning rate and validation metrics by name, to four digits, each beside the numbers of its epochs."""
    trained = _thinned(epochs)
    checked = _thinned([epoch for epoch in epochs if epoch.metrics])
    found: dict[str, list[float]] = {
        "epoch": [epoch.epoch for epoch in trained],
        "loss": [epoch.loss for epoch in trained],
        "learning_rate": [epoch.learning_rate for epoch in trained],
        "validation_epoch": [epoch.epoch for epoch in checked],
        "validation_recall_at_10": [epoch.metrics.recall_at_10 for epoch in checked if epoch.metrics],
        "validation_ndcg_at_10": [epoch.metrics.ndcg_at_10 for epoch in checked if epoch.metrics],
    }
    return {prefix + name: [float(f"{value:.4g}") for value in values] for name, values in found.items() if values}


def _thinned(epochs: Sequence[Epoch]) -> list[Epoch]:
    """At most `MAX_POINTS` of them, the first and the last always."""
    wanted = np.linspace(0, len(epochs) - 1, min(len(epochs), MAX_POINTS)).round().astype(int)
    return [epochs[at] for at in wanted]
