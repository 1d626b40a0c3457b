"""How to train, in numbers; importing it does not import torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on, besides the data."""

    window: int = 100
    """Inputs of a training window; longer histories are cut into several."""
    batch: int = 64
    """Windows of a step."""
    epochs: int = 20
    """Length of the schedule. MovieLens 100K was best after 12, 1M takes 24."""
    learning_rate: float = 5e-3
    """At the end of the warm-up; from there it falls to zero along a cosine."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises, but no more than a third of the training. A short training needs them:
    with 12 of 288 steps MovieLens 100K loses .014 of .200 recall@10."""
    weight_decay: float = 0.01
    """Of matrices; vectors and scalars are not decayed."""
    clip: float = 5.0
    """Largest norm of the gradient."""
    dropout: float = 0.2
    ahead: tuple[float, ...] = ()
    """Weights of the second, third, … event after a token as its targets, beside the next one with 1. Sparse data need
    them: what comes soon says nearly as much of an item as what comes next."""
    negatives: int | None = None
    """Items of a step's softmax, drawn from the catalogue, besides the targets of its batch; None takes them all. A
    large catalogue is most of a step's time; with a tenth of it a step says nearly the same."""
    mask_seen: bool = True
    """Whether a position's softmax leaves out what its sequence has had already, as every list does."""
    co_occurrence: bool = True
    """Whether the embeddings of a new model start from which items stand close to each other, not at random."""
    patience: int = 5
    """Epochs without a better validation recall@10 after which training stops."""
    evaluate_every: int = 1
    """Epochs from one validation to the next; the last epoch is always followed by one."""
    ema: float | None = None
    """Decay per step of an exponential moving average of the parameters, which then is what is validated and kept;
    None keeps the parameters themselves."""
    minutes: float | None = None
    """Wall time after which training has come to its end, if the epochs have not before."""
    seed: int = 0


class NothingToLearn(ValueError):
    """No user has two events to train on, or there are none at all."""
