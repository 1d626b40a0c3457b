import dataclasses
import math

import pytest
import torch

from training.fitting.device import CPU, Device
from training.fitting.evaluation import Metrics, evaluate
from training.fitting.fit import Diverged, Moment, Outcome, fit
from training.fitting.recipe import NothingToLearn, Recipe
from training.log.histories import Histories, Spans
from training.log.holdout import leave_one_out
from training.model.lrurec import LRURec, Shape

RECIPE = Recipe(window=8, batch=8, epochs=8, learning_rate=0.02, warmup_steps=5, mask_seen=False)  # the log has repeats


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


def test_the_curve_tells_every_epoch_with_its_mean_loss_over_tokens(ring: Histories) -> None:
    losses: list[float] = []

    def watch(moment: Moment) -> None:
        if moment.metrics is None:
            losses.append(moment.loss)

    train = Spans(ring.users.begin[:16], ring.users.begin[:16] + 9)  # 16 windows of 8 tokens, two steps
    outcome = fit(
        new_model(ring),
        ring,
        train,
        dataclasses.replace(RECIPE, epochs=3),
        CPU,
        validate=lambda _: Metrics(1, 0.5, 0, 0, 0),
        watch=watch,
    )
    assert [point.epoch for point in outcome.curve] == [1, 2, 3]
    assert [point.loss for point in outcome.curve] == pytest.approx([sum(losses[at : at + 2]) / 2 for at in (0, 2, 4)])
    assert outcome.curve[-1].learning_rate < outcome.curve[1].learning_rate
    assert outcome.curve[1].metrics == Metrics(1, 0.5, 0, 0, 0)
    assert outcome.epochs == 1


def test_validation_comes_every_so_many_epochs_and_after_the_last(ring: Histories) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=5, evaluate_every=2, patience=1)
    recalls = iter([0.1, 0.2, 0.3])
    outcome = fit(new_model(ring), ring, ring.users, recipe, CPU, validate=lambda _: Metrics(1, next(recalls), 0, 0, 0))
    assert [point.epoch for point in outcome.curve if point.metrics] == [2, 4, 5]
    assert outcome.epochs == 5


@pytest.mark.parametrize("validated", [True, False])
def test_an_average_over_the_steps_is_validated_and_kept(ring: Histories, validated: bool) -> None:
    train = Spans(ring.users.begin[:8], ring.users.begin[:8] + 9)  # a step is an epoch
    recipe = dataclasses.replace(RECIPE, epochs=3, learning_rate=0.01, warmup_steps=0)

    def trained(recipe: Recipe) -> tuple[LRURec, list[torch.Tensor]]:
        model, biases = new_model(ring), []

        def validate(seen: LRURec) -> Metrics:
            biases.append(seen.bias.detach().clone())
            return Metrics(1, float(len(biases)), 0, 0, 0)

        fit(model, ring, train, recipe, CPU, validate=validate if validated else None)
        return model, biases

    _, (first, second, third) = trained(recipe) if validated else (None, raw_biases(ring, train, recipe))
    model, averages = trained(dataclasses.replace(recipe, ema=0.1))
    expected = [first, 1 / 11 * first + 10 / 11 * second]  # younger than the decay says
    expected.append(0.1 * expected[1] + 0.9 * third)
    torch.testing.assert_close(averages, expected if validated else [])
    torch.testing.assert_close(model.bias.detach(), expected[-1])


def raw_biases(histories: Histories, train: Spans, recipe: Recipe) -> list[torch.Tensor]:
    """The bias after each step."""
    model, biases = new_model(histories), list[torch.Tensor]()

    def watch(_moment: Moment) -> None:
        biases.append(model.bias.detach().clone())

    fit(model, histories, train, recipe, CPU, watch=watch)
    return biases[::2]  # it is told twice of a step that ends an epoch


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
