from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from schemas.artefact import Gate
from training.fitting.device import CPU
from training.fitting.evaluation import evaluate
from training.fitting.fit import Moment, Outcome
from training.fitting.recipe import NothingToLearn, Recipe
from training.log.histories import Histories, HistoryBuilder
from training.log.holdout import leave_one_out, newest
from training.retraining import retrain

RECIPE = Recipe(window=8, batch=4, epochs=4, learning_rate=0.01, dropout=0.0)


@contextmanager
def no_bar(_title: str) -> Iterator[Callable[[Moment], None]]:
    yield lambda _moment: None


def new_item_log() -> Histories:
    """At the end everybody takes an item that nobody knew before."""
    builder = HistoryBuilder()
    for time in range(20):
        for user in range(40):
            builder.add(str(user), f"old {(user + time) % 40}" if time < 19 else "new", 1000 * time)
    return builder.build()


def test_catching_up_learns_the_items_that_only_the_newest_events_have() -> None:
    histories = new_item_log()
    holdout = newest(histories, 0.05)
    without, caught_up = (
        retrain(
            histories,
            holdout,
            replace(RECIPE, epochs=8, batch=8, learning_rate=0.02, patience=8),
            CPU,
            no_bar,
            catch_up=catch_up,
        )
        for catch_up in (False, True)
    )
    before, after = (
        evaluate(trained.model, histories, holdout.validation, RECIPE.window, CPU) for trained in (without, caught_up)
    )
    assert after.recall_at_10 > before.recall_at_10 + 0.15
    assert caught_up.metrics == without.metrics


def test_the_metrics_are_those_of_the_model_that_has_not_seen_the_held_out_events(ring: Histories) -> None:
    holdout = leave_one_out(ring)
    trained = retrain(ring, holdout, RECIPE, CPU, no_bar, catch_up=False)
    measured = evaluate(trained.model, ring, holdout.validation, RECIPE.window, CPU)
    assert trained.fitted.metrics == measured
    assert trained.test == evaluate(trained.model, ring, holdout.test, RECIPE.window, CPU)
    assert trained.metrics["validation_recall_at_10"] == measured.recall_at_10
    assert trained.metrics["test_events"] == len(ring.users)


def test_without_held_out_events_all_epochs_are_trained_and_nothing_is_claimed(ring: Histories) -> None:
    trained = retrain(ring, newest(ring, 0), RECIPE, CPU, no_bar, catch_up=True)
    assert trained.metrics == {"epochs": RECIPE.epochs, "steps": trained.fitted.steps}


def test_both_phases_share_the_minutes(ring: Histories) -> None:
    phases: list[list[Moment]] = []

    @contextmanager
    def keep(_title: str) -> Iterator[Callable[[Moment], None]]:
        phases.append([])
        yield phases[-1].append

    recipe = replace(RECIPE, epochs=10**6, minutes=0.002, patience=10**6)
    retrain(ring, newest(ring, 0.1), recipe, CPU, keep, catch_up=True)
    assert [phase[-1].progress for phase in phases] == [1.0, 1.0]


@pytest.mark.parametrize(("judges", "phases"), [(False, [1.6, 0.4]), (True, [4 / 3, 1 / 3, 1 / 3])])
def test_the_gates_rehearsal_is_a_part_of_the_minutes(
    judges: bool, phases: list[float], ring: Histories, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float | None] = []

    def note(*of_fit: Any, **_: object) -> Outcome:
        given.append(of_fit[3].minutes)
        return Outcome(1, 1, 0.0, None)

    monkeypatch.setattr("training.retraining.fit", note)
    judge = (lambda _: Gate(verdict="accepted", reason="")) if judges else None
    recipe = replace(RECIPE, minutes=2.0)
    retrain(ring, newest(ring, 0.1), recipe, CPU, no_bar, catch_up=True, judge=judge)
    assert given == pytest.approx(phases)


def test_the_same_seed_gives_the_same_model(ring: Histories) -> None:
    models = [
        retrain(ring, newest(ring, 0.1), replace(RECIPE, epochs=1), CPU, no_bar, catch_up=True).model for _ in range(2)
    ]
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), atol=0, rtol=0)


def test_a_log_without_sequences_teaches_nothing() -> None:
    builder = HistoryBuilder()
    builder.add("a", "x", 0)
    histories = builder.build()
    assert np.diff(histories.users.begin).size == 0
    with pytest.raises(NothingToLearn):
        retrain(histories, newest(histories, 0.1), RECIPE, CPU, no_bar, catch_up=True)
