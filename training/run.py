"""`python -m training run`: one retraining, from the log to the announced model, or one every few hours."""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import structlog
from confluent_kafka import KafkaError, KafkaException
from pydantic import BeforeValidator, Field

from schemas import logs
from schemas.admission import admit
from schemas.artefact import Manifest
from schemas.cluster import Cluster
from schemas.malformed import Malformed
from schemas.report import Report
from schemas.settings import DONE
from training.fitting.recipe import NothingToLearn, Recipe
from training.log.data_checks import Limits, UnfitData

FAILURES: Final = (
    ArithmeticError,
    KafkaException,
    Malformed,
    MemoryError,
    NothingToLearn,
    OSError,
    RuntimeError,
    UnfitData,
)
"""how a retraining fails that may work the next time; torch's own errors are RuntimeErrors"""

_DEFAULTS: Final = Recipe()
_LIMITS: Final = Limits()
_AFTER_FAILURE_S: Final = 300.0
"""until the next try after a failure, at most: what fails at first is often just an empty log"""
_FIRST_ANSWER_S: Final = 1.0
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

_log = structlog.get_logger()


def duration_s(text: str | float) -> float:
    """Seconds of `90s`, `30m`, `6h` or `1d`; a number is seconds already, as a default is.

    Raises:
        ValueError: another form.
    """
    if not isinstance(text, str):
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not found:
        raise ValueError("must be a number and a unit: 90s, 30m, 6h or 1d")
    return float(found[1]) * _SECONDS[found[2]]


def told(error: Exception) -> str:
    """What went wrong, in one line."""
    # Kafka's own has its number, its name and whether it is fatal around the sentence
    kafka = isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError)
    return " ".join((error.args[0].str() if kafka else str(error)).split()) or type(error).__name__


class Run(Report):
    """Train on the log, export the model and make it the champion."""

    from_inter: Path | None = Field(
        None, description="train on this RecBole file (.inter, .inter.gz) instead of the log, and do not publish"
    )
    publish: bool = Field(True, description="make the model the champion; never when it was trained on a file")
    gate: bool = Field(True, description="do not announce a model that is worse than the champion on the newest events")
    start: Literal["cold", "warm", "auto"] = Field(
        "cold",
        description="new weights and all events; or the champion's weights and what is new, where that is possible; "
        "or that only where little is new",
    )
    every: Annotated[float, BeforeValidator(duration_s)] | None = Field(
        None, gt=0, description="start a retraining this often, e.g. 6h or 90m, until stopped"
    )
    split: Literal["time", "leave-one-out"] = Field(
        "time", description="what is held out: the newest events of all, or each user's last two"
    )
    holdout: float = Field(0.1, ge=0, lt=1, description="share of events held out when split by time")
    allow_odd_data: bool = Field(False, description="train on data that look wrong as well, with warnings")
    min_users: int = Field(_LIMITS.min_users, ge=0, description="fewest users with two events or more to train on")
    min_held_out: int = Field(_LIMITS.min_held_out, ge=0, description="fewest events held out to measure a model on")
    max_user_share: float = Field(
        _LIMITS.max_user_share, ge=0, le=1, description="largest share of the events by one user who stands out"
    )
    max_future_share: float = Field(
        _LIMITS.max_future_share, ge=0, le=1, description="largest share of the events with a time in the future"
    )
    future_tolerance_h: float = Field(
        _LIMITS.future_tolerance_h, ge=0, description="hours that a time may be ahead of the clock here"
    )
    catch_up: bool = Field(True, description="go on over all events once the model is measured")
    epochs: int = Field(_DEFAULTS.epochs, ge=1, description="planned passes over the log, the length of the schedule")
    minutes: float | None = Field(None, gt=0, description="wall time of the training, if it ends before the epochs do")
    patience: int = Field(_DEFAULTS.patience, ge=1, description="epochs without a better recall@10 before stopping")
    window: int = Field(
        _DEFAULTS.window, ge=1, description="events of a training window; it should be the workers' history length"
    )
    batch: int = Field(_DEFAULTS.batch, ge=1, description="windows of a step")
    learning_rate: float = Field(_DEFAULTS.learning_rate, gt=0, description="highest learning rate")
    dropout: float = Field(
        _DEFAULTS.dropout, ge=0, lt=1, description="share of activations dropped; more for sparse data"
    )
    ahead: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        _DEFAULTS.ahead,
        description="weights of the second, third, … next event as targets as well, e.g. 0.5,0.25 for sparse data",
    )
    negatives: int | None = Field(
        _DEFAULTS.negatives,
        ge=1,
        description="items of a step's softmax that are drawn, besides its targets; all of the catalogue, if omitted",
    )
    mask_seen: bool = Field(
        _DEFAULTS.mask_seen, description="leave out of a softmax what its user has had already, as every list does"
    )
    co_occurrence: bool = Field(
        _DEFAULTS.co_occurrence, description="start embeddings from which items stand close to each other"
    )
    seed: int = Field(_DEFAULTS.seed, ge=0, description="of weights, batches and dropout")
    threads: int = Field(
        os.cpu_count() or 1, ge=1, description="threads of a training on a CPU, shared by all its processes on a host"
    )
    checkpoints: Path = Field(
        Path("data/checkpoints"), description="directory of checkpoints, one folder for each kind of run inside"
    )
    checkpoint_every: Annotated[float, BeforeValidator(duration_s)] = Field(
        60.0, ge=0, description="how often a training notes where it is, to go on from there if it is killed; 0s: never"
    )

    @property
    def of_checkpoint(self) -> dict[str, Any]:
        """The settings that a training must share with a checkpoint to go on from it."""
        free = {"every", "publish", "threads", "checkpoints", "checkpoint_every", "log_level", "as_json"}
        way_in = Cluster.model_fields.keys() - {"broker"}  # another password reads the same log
        return self.model_dump(mode="json", exclude=free | way_in)

    @property
    def limits(self) -> Limits:
        """What these settings ask of the data."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})

    @property
    def recipe(self) -> Recipe:
        """What these settings say of the training itself; the rest as in a recipe."""
        names = {field.name for field in fields(Recipe)} & type(self).model_fields.keys()
        return Recipe(**{name: getattr(self, name) for name in names})

    def run(self) -> int:
        """Train once, or again and again.

        Raises:
            Refused: a setting is wrong, or the cluster does not let us in, see `retrain_once`.
            FAILURES: the retraining failed, and there is no next one.
        """
        logs.configure(self.log_level)
        # Read once, when torch loads: threads that wait must sleep. On cores that a broker and workers share, spinning
        # ones made a training four times slower.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        if self.from_inter is None:
            with suppress(KafkaException):  # an outage is a failed retraining, and told as one
                admit(self, "training", _FIRST_ANSWER_S)
        # imported only now, for that, and so that --help and a wrong setting answer at once
        from training import job
        from training.fitting import distributed
        from training.fitting.device import find_device
        from training.fitting.fit import follow

        with distributed.joined():
            if distributed.rank() == 0:
                self._lead(lambda: job.retrain_once(self), alone=distributed.size() == 1)
                distributed.from_leader(None)
            else:
                job.prepare(self)
                follow(find_device())
        return DONE

    def _lead(self, retrain_once: Callable[[], Manifest], *, alone: bool) -> None:
        """Retrain once, or again and again; with other processes a failure is the end of all."""
        while True:
            began = time.monotonic()
            try:
                manifest = retrain_once()
            except FAILURES as error:
                if self.every is None or not alone:
                    raise
                pause = min(self.every, _AFTER_FAILURE_S)
                _log.error("retraining failed", kind=type(error).__name__, error=told(error), next_in_s=pause)
            else:
                measured = " ".join(f"{name} {value:.4g}" for name, value in manifest.metrics.items())
                verdict = f"{manifest.gate.verdict}, {manifest.gate.reason}" if manifest.gate else "not judged"
                self.report(
                    f"model {manifest.version}: {verdict}; {manifest.items} items, {measured}",
                    **manifest.model_dump(exclude={"files"}),
                )
                if self.every is None:
                    return
                pause = max(0.0, began + self.every - time.monotonic())
            time.sleep(pause)
