import json

from training.fitting.curves import MAX_POINTS, curves
from training.fitting.evaluation import Metrics
from training.fitting.fit import Epoch


def epochs(count: int, every: int) -> list[Epoch]:
    metrics = Metrics(10, 0.123456, 0.1, 0.2, 0.15)
    return [Epoch(n, 5 / n, 0.001, metrics if n % every == 0 else None) for n in range(1, count + 1)]


def test_a_curve_has_the_loss_of_each_epoch_and_the_metrics_of_those_that_were_validated() -> None:
    assert curves(epochs(3, 2)) == {
        "epoch": [1, 2, 3],
        "loss": [5, 2.5, 1.667],
        "learning_rate": [0.001] * 3,
        "validation_epoch": [2],
        "validation_recall_at_10": [0.1235],
        "validation_ndcg_at_10": [0.1],
    }


def test_without_validation_there_are_no_curves_of_it() -> None:
    assert curves(epochs(2, 3), "catch_up_").keys() == {"catch_up_epoch", "catch_up_loss", "catch_up_learning_rate"}


def test_no_epochs_have_no_curves() -> None:
    assert curves(()) == {}


def test_a_long_training_keeps_its_ends_and_fits_into_a_record() -> None:
    found = curves(epochs(10_000, 1))
    assert {len(values) for values in found.values()} == {MAX_POINTS}
    assert (found["epoch"][0], found["epoch"][-1]) == (1, 10_000)
    assert len(json.dumps(found)) < 10_000
