import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.fitting import distributed
from training.fitting.device import CPU
from training.fitting.distributed import Lost, dealt, joined
from training.fitting.evaluation import Metrics
from training.fitting.fit import Diverged, Moment, fit
from training.fitting.recipe import Recipe
from training.log.histories import Histories
from training.model.lrurec import LRURec, Shape

pytestmark = pytest.mark.timeout(400)
# processes that load PyTorch wait for each other

RECIPE = Recipe(window=8, batch=8, epochs=2, learning_rate=0.02, warmup_steps=5, mask_seen=False)  # the log has repeats
FOLLOWER = """
import torch
torch.set_num_threads(1)
from training.fitting.device import CPU
from training.fitting.distributed import joined
from training.fitting.fit import follow
with joined():
    follow(CPU)
"""


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@contextmanager
def led(ranks: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Within it this process is rank 0 of so many; gives the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    with ExitStack() as stack:
        followers = []
        for rank in range(1, ranks):
            command = [sys.executable, "-c", FOLLOWER]
            env = os.environ | shared | {"RANK": str(rank)}
            follower = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
            stack.callback(follower.wait, 60)
            stack.callback(follower.kill)
            followers.append(follower)
        stack.enter_context(environment(shared | {"RANK": "0"}))
        stack.enter_context(joined())
        yield followers


@pytest.fixture(scope="module")
def three() -> Iterator[None]:
    with led(3) as followers:
        yield
        distributed.from_leader(None)
        assert [follower.wait(60) for follower in followers] == [0, 0]


def new_model(histories: Histories, dropout: float = 0.0) -> LRURec:
    torch.manual_seed(0)
    return LRURec(Shape(len(histories.item_ids), width=16, units=8), dropout)


def trained(histories: Histories, recipe: Recipe = RECIPE, dropout: float = 0.0) -> tuple[LRURec, list[float]]:
    model, losses = new_model(histories, dropout), list[float]()
    fit(model, histories, histories.users, recipe, CPU, watch=lambda moment: losses.append(moment.loss))
    return model, losses


# These two come first: a process can be in one group only, and the fixture's stays to the end.


def test_a_process_that_dies_ends_the_training_of_the_others_with_one_line(ring: Histories) -> None:
    with led(2) as (follower,):

        def kill(moment: Moment) -> None:
            if moment.epoch == 1:
                follower.send_signal(signal.SIGKILL)

        with pytest.raises(Lost, match="rank 0 of 2: another process of this training ended"):
            fit(new_model(ring), ring, ring.users, dataclasses.replace(RECIPE, epochs=10**6), CPU, watch=kill)


def test_a_training_that_diverges_ends_everywhere(ring: Histories) -> None:
    with led(2) as (follower,):
        model = new_model(ring)
        with torch.no_grad():
            model.embedding_norm.weight.fill_(torch.nan)
        with pytest.raises(Diverged):
            fit(model, ring, ring.users, RECIPE, CPU)
        assert follower.wait(60) == 1
        assert follower.stderr is not None
        assert "Diverged" in follower.stderr.read()


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("batch", [8, 2])
def test_three_processes_make_the_steps_of_one(ring: Histories, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two windows in a batch one of the three has nothing to do."""
    recipe = dataclasses.replace(RECIPE, batch=batch, epochs=1 if batch == 2 else 2)
    together, losses = trained(ring, recipe)
    monkeypatch.setattr(distributed, "_control", None)
    alone, expected = trained(ring, recipe)
    assert len(losses) > 20
    torch.testing.assert_close(losses, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(together.state_dict(), alone.state_dict(), atol=1e-3, rtol=0)


@pytest.mark.usefixtures("three")
def test_with_dropout_every_process_drops_others_and_the_loss_falls_alike(
    ring: Histories, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=6)
    _, losses = trained(ring, recipe, dropout=0.2)
    _, again = trained(ring, recipe, dropout=0.2)
    monkeypatch.setattr(distributed, "_control", None)
    _, expected = trained(ring, recipe, dropout=0.2)
    assert losses == again
    assert losses[0] != expected[0]
    assert np.mean(losses[-30:]) == pytest.approx(np.mean(expected[-30:]), rel=0.15)


@pytest.mark.usefixtures("three")
def test_what_rank_0_decides_ends_the_epochs_of_all(ring: Histories) -> None:
    recalls = iter([0.2, 0.1, 0.1])
    moments: list[Moment] = []
    recipe = dataclasses.replace(RECIPE, epochs=9, patience=2)
    outcome = fit(
        new_model(ring),
        ring,
        ring.users,
        recipe,
        CPU,
        validate=lambda _: Metrics(1, next(recalls), 0, 0, 0),
        watch=moments.append,
    )
    assert (outcome.epochs, moments[-1].epoch) == (1, 3)
    assert trained(ring)[1]  # the others are ready for the next one


@pytest.mark.usefixtures("three")
def test_minutes_are_those_of_rank_0(ring: Histories) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=10**6, minutes=1e-3)
    outcome = fit(new_model(ring), ring, ring.users, recipe, CPU)
    assert 1 <= outcome.epochs < 1000


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 5))
def test_every_window_is_dealt_to_one_process_and_the_shares_are_balanced(lengths: list[int], ranks: int) -> None:
    shares = [dealt(np.array(lengths, dtype=np.int64), ranks, nth) for nth in range(ranks)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(lengths)))
    tokens = [sum(lengths[window] for window in share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths, default=0)


def test_gradients_are_summed_in_buckets_of_limited_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 40)
    tensors = [torch.zeros(length) for length in (3, 7, 1, 20, 2, 2)]
    found = [[tensor.numel() for tensor in bucket] for bucket in distributed._buckets(tensors)]
    assert found == [[3, 7], [1], [20], [2, 2]]


def test_the_threads_of_a_host_are_shared_by_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (distributed.threads(10), distributed.threads(2)) == (2, 1)
