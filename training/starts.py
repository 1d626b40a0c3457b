"""`python -m training starts FILE`: what a fine-tuning is worth beside a full retraining, measured on a file.

A champion is trained on the first 80 % of the events, in the order of time. The next 10 % arrive. Then three models
rank the last 10 %: the old champion, a full retraining on all 90 %, and the champion fine-tuned on what is new. No
training is stopped early, so none has seen what it is asked. The fine-tuned model is then held against the fully
retrained one as the gate holds a candidate against the champion. The file needs real times.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliPositionalArg

from schemas import logs
from schemas.artefact import Gate
from schemas.inter_file import Interactions, read_interactions
from schemas.report import Report
from schemas.settings import DONE, Refused
from training.fitting.recipe import Recipe

LEARNED: Final = 0.8
ARRIVED: Final = 0.9
"""shares of the events: what the champion has learned, and what a retraining learns"""
FEWEST: Final = 100
"""events of a file: of fewer, a tenth says nothing"""
NAMES: Final = "old champion", "full retraining", "fine-tuning"

_log = structlog.get_logger()


class Starts(Report):
    """Measure a fine-tuning beside a full retraining and the old champion on the newest events of a file."""

    file: CliPositionalArg[Path] = Field(description="RecBole file (.inter, .inter.gz) with real times")
    seeds: int = Field(3, ge=1, description="runs, with the seeds from 0 on")
    epochs: int = Field(12, ge=1, description="of a full training")
    threads: int = Field(os.cpu_count() or 1, ge=1, description="threads of a training on a CPU")

    def run(self) -> int:
        """Run it for each seed and print the means.

        Raises:
            Refused: the file cannot be read, is malformed, or too short.
        """
        logs.configure(self.log_level)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        interactions = read_interactions(self.file)
        if len(interactions) < FEWEST:
            raise Refused(f"file: must have {FEWEST} events, {self.file} has {len(interactions)}")
        if len(set(interactions.timestamps_ms.tolist())) < len(interactions) / 100:
            raise Refused(f"file: must have real times, {self.file} has hardly any")
        recipes = [Recipe(seed=seed, epochs=self.epochs) for seed in range(self.seeds)]
        runs, gates = zip(*(measure(interactions, recipe, self.threads) for recipe in recipes), strict=True)
        result: dict[str, Any] = {
            name.replace(" ", "_").replace("-", "_"): _means([run[name] for run in runs]) for name in NAMES
        }
        lines = [f"{'':<16} {'R@10':>7} {'N@10':>7} {'seconds':>8}   (means of {self.seeds} seeds)"]
        for name, found in zip(NAMES, result.values(), strict=True):
            lines.append(
                f"{name:<16} {found['recall_at_10']:>7.4f} {found['ndcg_at_10']:>7.4f} {found['seconds']:>8.1f}"
            )
        gap = _gap(gates)
        if gap:
            lines.append(
                f"fine-tuning less full, N@10: {gap['difference']:+.4f}, {gap['low']:+.4f} to {gap['high']:+.4f}"
            )
        self.report("\n".join(lines), **result, gap=gap, runs=runs)
        return DONE


def measure(interactions: Interactions, recipe: Recipe, threads: int) -> tuple[dict[str, dict[str, float]], Gate]:
    """Metrics on the last 10 % and seconds of training, by what was trained; and fine-tuning as a full one's rival."""
    import torch

    from training.fitting import warm_start
    from training.fitting.device import find_device
    from training.fitting.evaluation import metrics_of
    from training.fitting.fit import fit
    from training.log.histories import Histories, HistoryBuilder
    from training.log.holdout import after
    from training.release.gate import judge, owners
    from training.release.incumbent import Incumbent, positions
    from training.retraining import Start, cold_start

    torch.set_num_threads(threads)
    device = find_device()

    def until(share: float) -> Histories:
        builder = HistoryBuilder()
        for event in interactions.part(0, share).events():
            builder.add(event.user_id, event.item_id, event.timestamp_ms)
        return builder.build()

    first, second, whole = until(LEARNED), until(ARRIVED), until(1.0)
    since_ms = int(first.timestamps_ms.max())
    asked = after(whole, int(second.timestamps_ms.max())).validation

    def train(start: Start, histories: Histories, its: Recipe) -> tuple[Incumbent, NDArray[np.int64], dict[str, float]]:
        began = time.monotonic()
        model = start.model.to(device.name)
        fit(model, histories, start.lessons(histories.users), its, device)
        seconds = time.monotonic() - began
        trained = Incumbent(recipe.seed, model.to("cpu"), list(histories.item_ids))
        ranks = trained.rank(whole, asked, recipe.window, device)
        found = asdict(metrics_of(ranks))
        kept = {name: found[name] for name in ("events", "recall_at_10", "ndcg_at_10")}
        return trained, ranks, kept | {"seconds": seconds}

    champion, _, of_champion = train(cold_start(first, first.users, recipe), first, recipe)
    _, full, of_full = train(cold_start(second, second.users, recipe), second, recipe)
    warm = warm_start.start(champion, second, second.users, since_ms, recipe)
    _, tuned, of_tuned = train(warm, second, warm_start.fine_tuning(recipe))
    measured = dict(zip(NAMES, (of_champion, of_full, of_tuned), strict=True))
    _log.info("measured", seed=recipe.seed, **{name: f"{found['ndcg_at_10']:.4f}" for name, found in measured.items()})
    return measured, judge(recipe.seed + 1, owners(whole.users, positions(asked)), tuned, full)


def _gap(gates: Sequence[Gate]) -> dict[str, float] | None:
    """The means of the differences in NDCG@10 and of their 95 % intervals; None of too few events."""
    gaps = [gate.model_dump(include={"difference", "low", "high"}) for gate in gates if gate.verdict != "uncompared"]
    return _means(gaps) if gaps else None


def _means(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: mean(run[name] for run in runs) for name in runs[0]}
