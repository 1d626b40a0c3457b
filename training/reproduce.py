"""`python -m training reproduce`: train on a data set as the paper did, and print the metrics beside the paper's."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from schemas import logs
from schemas.report import Report
from schemas.settings import DONE, Refused
from training.fitting.recipes import Entry, entries

COLUMNS: Final = {"recall_10": "R@10", "ndcg_10": "N@10", "recall_20": "R@20", "ndcg_20": "N@20"}
TITLES: Final = {"lrurec": "LRURec", "sasrec": "SASRec"}


class Reproduce(Report):
    """Train on a data set as the paper did, and print the metrics beside the paper's."""

    dataset: CliPositionalArg[Path] = Field(description="a RecBole file, NAME.inter or NAME.inter.gz")
    protocol: Literal["leave-one-out"] = Field(
        "leave-one-out", description="each user's last event is the test, the one before it validation"
    )
    rival: bool = Field(False, description="train SASRec as well, in the same harness, and print it beside")
    recipe: str | None = Field(
        None,
        description="name in training/fitting/recipes.toml, or `size`: what follows from the sizes; by the file's name",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="a training for each, e.g. 0,1,2; their means are printed"
    )
    minutes: float | None = Field(None, gt=0, description="wall time of a training, if it ends before the epochs do")
    threads: int = Field(os.cpu_count() or 1, ge=1, description="threads of a training on a CPU")

    def run(self) -> int:
        """Train, measure and print.

        Raises:
            Refused: the file cannot be read, or there is no such recipe.
            NothingToLearn: no user has the three events that the protocol needs.
        """
        logs.configure(self.log_level)
        name = self.dataset.name.split(".")[0].lower()
        known = entries()
        names = ", ".join(sorted(known))
        if self.recipe not in (None, "size", *known):
            raise Refused(f"recipe {self.recipe!r} is not in training/fitting/recipes.toml, there are: {names}, size")
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        # imported only now, so that --help and a wrong setting answer at once
        from training.reproduction import Reproduction, Result

        job = Reproduction(self.dataset, known.get(self.recipe or name, Entry()), self.threads, self.minutes)
        paper = known.get(name, Entry()).paper
        if not self.as_json:
            print(f"{name}: {job.sizes.users:,} users, {job.sizes.items:,} items, {job.sizes.events:,} events\n")
            print(f"{'':<16}{''.join(f'{title:>8}' for title in COLUMNS.values())}{'minutes':>10}")
        means: dict[str, Result] = {}
        for model in ("lrurec", "sasrec") if self.rival else ("lrurec",):
            results = []
            for seed in self.seeds:
                results.append(job.train(model, seed))
                self._line(f"{TITLES[model]} seed {seed}", results[-1].metrics, results[-1].minutes)
            means[model] = Result.mean(results)
            if len(results) > 1:
                self._line(f"{TITLES[model]} mean", means[model].metrics, means[model].minutes)
        if paper:
            self._line("the paper", paper)
        ours = means["lrurec"]
        rival = means.get("sasrec")
        told: dict[str, Any] = {**ours.metrics, "minutes": round(ours.minutes, 4), "paper": paper}
        told |= {"seeds": self.seeds, "validation": ours.validation, "recipe": asdict(job.recipe("lrurec"))}
        if rival:
            told["sasrec"] = {**rival.metrics, "minutes": round(rival.minutes, 4)}
        if self.as_json:
            self.report("", **told)
        return DONE

    def _line(self, title: str, metrics: dict[str, float] | Any, minutes: float | None = None) -> None:
        if not self.as_json:
            cells = "".join(f"{metrics[name]:>8.4f}" for name in COLUMNS)
            print(f"{title:<16}{cells}" + (f"{minutes:>10.1f}" if minutes is not None else ""), flush=True)
