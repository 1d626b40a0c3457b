import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from training.fitting.device import CPU, Device
from training.fitting.evaluation import evaluate
from training.fitting.fit import fit
from training.fitting.recipe import Recipe
from training.log.histories import Histories, Spans
from training.log.holdout import leave_one_out
from training.model.packing import pack
from training.rivals.sasrec import SASRec, SASRecShape, grids

SHAPE = SASRecShape(items=12, window=40, width=16)
LENGTHS = [[1], [7, 0, 13, 1], [3, 3, 3], [40, 39, 20, 5, 4, 2, 1, 1]]


@pytest.fixture
def model() -> SASRec:
    torch.manual_seed(0)
    model = SASRec(SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)
    return model.eval()


def one_at_a_time(model: SASRec, x: Tensor) -> Tensor:
    """The query after each token of one sequence [L, D], from the tokens up to it and no others."""
    return torch.stack([model(x[: end + 1], packing=pack([end + 1]))[0][-1] for end in range(len(x))])


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@torch.no_grad()
def test_a_query_depends_on_its_own_lane_up_to_its_token_and_on_nothing_else(model: SASRec, lengths: list[int]) -> None:
    packing = pack(lengths)
    x = model.embedding(torch.randint(SHAPE.items, (len(packing.time),)))
    query, _ = model(x, packing=packing)
    for lane in range(packing.alive):
        mine = torch.from_numpy(packing.lane == lane)
        torch.testing.assert_close(query[mine], one_at_a_time(model, x[mine]), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_query_depends_on_the_order_of_what_came_before(model: SASRec) -> None:
    x = model.embedding(torch.tensor([1, 2, 3, 4]))
    query, _ = model(x, packing=pack([4]))
    other, _ = model(x[[1, 0, 2, 3]], packing=pack([4]))
    assert (query[-1] - other[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_every_token_is_in_one_grid_that_is_more_than_half_full(lengths: list[int]) -> None:
    found = grids(pack(lengths), torch.device("cpu"))
    tokens = torch.cat([grid.tokens[grid.real] for grid in found])
    assert sorted(tokens.tolist()) == list(range(sum(lengths)))
    assert all((2 * grid.real.sum(1) > grid.real.shape[1]).all() for grid in found)


def test_padding_has_no_gradient(model: SASRec) -> None:
    packing = pack([5, 3])
    x = model.embedding(torch.randint(SHAPE.items, (8,))).detach().requires_grad_()
    query, _ = model(x, packing=packing)
    (both,) = torch.autograd.grad(query[torch.from_numpy(packing.lane == 1)].square().sum(), x)
    assert (both[torch.from_numpy(packing.lane == 0)] == 0).all()


def test_a_lane_that_is_longer_than_the_window_is_refused(model: SASRec) -> None:
    packing = pack([SHAPE.window + 1])
    with pytest.raises(ValueError, match="lane of 41 tokens is longer than the window of 40"):
        model(torch.zeros(41, SHAPE.width), packing=packing)


def test_it_is_fitted_and_evaluated_as_lrurec_is(ring: Histories) -> None:
    torch.manual_seed(0)
    model = SASRec(dataclasses.replace(SHAPE, window=8), dropout=0.0)
    recipe = Recipe(window=8, batch=8, epochs=8, learning_rate=0.02, warmup_steps=5, mask_seen=False)
    losses: list[float] = []
    fit(
        model,
        ring,
        leave_one_out(ring).train,
        recipe,
        Device("cpu", torch.bfloat16),
        watch=lambda m: losses.append(m.loss),
    )
    assert losses[0] == pytest.approx(math.log(SHAPE.items), abs=0.2)
    assert losses[-1] < 0.3
    short = Spans(ring.users.begin, np.minimum(ring.users.begin + 5, ring.users.end))
    histories = Histories(ring.items, ring.timestamps_ms, short, ring.item_ids)
    assert evaluate(model, histories, leave_one_out(histories).test, 8, CPU).ndcg_at_10 > 0.95
