import dataclasses
import math

import pytest
import torch

from training.device import CPU, Device
from training.evaluation import Metrics, evaluate
from training.fit import Diverged, Moment, Outcome, fit
from training.histories import Histories, Spans
from training.holdout import leave_one_out
from training.model import LRURec, Shape
from training.recipe import NothingToLearn, Recipe

RECIPE = Recipe(window=8, batch=8, epochs=8, learning_rate=0.02, warmup_steps=5)


def new_model(histories: Histories) -> LRURec:
    torch.manual_seed(0)
    return LRURec(Shape(len(histories.item_ids), width=16, units=8), dropout=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_learns_a_pattern_in_either_precision(ring: Histories, dtype: torch.dtype) -> None:
    model, train = new_model(ring), leave_one_out(ring).train
    losses: list[float] = []
    fit(model, ring, train, RECIPE, Device("cpu", dtype), watch=lambda moment: losses.append(moment.loss))
    assert losses[0] == pytest.approx(math.log(len(ring.item_ids)), abs=0.1)
    assert losses[-1] < 0.3


def test_the_same_seed_gives_the_same_model_and_another_seed_another(ring: Histories) -> None:
    def trained(seed: int) -> dict[str, torch.Tensor]:
        model = new_model(ring)
        fit(model, ring, ring.users, dataclasses.replace(RECIPE, epochs=1, seed=seed), CPU)
        return dict(model.named_parameters())

    first = trained(1)
    torch.testing.assert_close(first, trained(1), atol=0, rtol=0)
    assert not torch.equal(first["embedding.weight"], trained(2)["embedding.weight"])


def test_training_stops_after_its_patience_and_keeps_the_best_epoch(ring: Histories) -> None:
    recalls = iter([0.1, 0.3, 0.2, 0.3, 0.1, 0.9])
    states: list[torch.Tensor] = []
    model = new_model(ring)

    def validate(trained: LRURec) -> Metrics:
        states.append(trained.embedding.weight.detach().clone())
        return Metrics(1, next(recalls), 0, 0, 0)

    outcome = fit(model, ring, ring.users, dataclasses.replace(RECIPE, patience=3), CPU, validate=validate)
    assert len(states) == 5
    assert (outcome.epochs, outcome.metrics) == (2, Metrics(1, 0.3, 0, 0, 0))
    assert torch.equal(model.embedding.weight, states[1])
    assert not torch.equal(states[1], states[-1])


def test_minutes_end_the_training_before_the_epochs_do(ring: Histories) -> None:
    moments: list[Moment] = []
    recipe = dataclasses.replace(RECIPE, epochs=10**6, minutes=1e-3)
    outcome = fit(new_model(ring), ring, ring.users, recipe, CPU, watch=moments.append)
    assert 1 <= outcome.epochs < 1000
    assert moments[-1].progress == 1


def test_nothing_to_learn_from_is_refused(ring: Histories) -> None:
    empty = Spans(ring.users.begin, ring.users.begin + 1)
    with pytest.raises(NothingToLearn, match="two events to train on"):
        fit(new_model(ring), ring, empty, RECIPE, CPU)


def test_a_loss_that_is_not_a_number_ends_the_training(ring: Histories) -> None:
    model = new_model(ring)
    with torch.no_grad():
        model.embedding_norm.weight.fill_(math.nan)
    with pytest.raises(Diverged, match="learning rate"):
        fit(model, ring, ring.users, RECIPE, CPU)


def test_a_trained_model_ranks_what_follows(ring: Histories) -> None:
    model, holdout = new_model(ring), leave_one_out(ring)
    outcome: Outcome = fit(model, ring, holdout.train, RECIPE, CPU)
    assert outcome.metrics is None
    short = Spans(ring.users.begin, ring.users.begin + 5)
    histories = Histories(ring.items, ring.timestamps_ms, short, ring.item_ids)
    metrics = evaluate(model, histories, leave_one_out(histories).test, 8, CPU)
    assert metrics.ndcg_at_10 > 0.95
