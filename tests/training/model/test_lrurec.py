import pytest
import torch
from torch import Tensor

from training.model.lrurec import LRU, LRURec, Shape
from training.model.packing import pack

SHAPE = Shape(items=50, width=16, units=12, blocks=2)


def recurrences(model: LRURec) -> list[LRU]:
    return [module for module in model.modules() if isinstance(module, LRU)]


@pytest.fixture
def model() -> LRURec:
    torch.manual_seed(0)
    model = LRURec(SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + torch.rand_like(parameter))
        for lru in recurrences(model):
            lru.inner.weight.mul_(20)
            lru.outer.weight.mul_(20)
    return model.eval()


def unroll(model: LRURec, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The one-step form applied token by token to one sequence [L, D], from state [S]."""
    queries = []
    for token in x:
        query, after = model(token[None], state[None])
        queries.append(query[0])
        state = after[0]
    return torch.stack(queries) if queries else x, state


@pytest.mark.parametrize("lengths", [[0], [1], [7, 0, 13, 1], [100, 333]], ids=str)
@torch.no_grad()
def test_the_scan_and_the_step_agree_at_every_position(model: LRURec, lengths: list[int]) -> None:
    packing = pack(lengths)
    x = model.embedding(torch.randint(SHAPE.items, (len(packing.time),)))
    initial = torch.randn(len(lengths), SHAPE.state)
    query, state = model(x, initial, packing)
    for lane in range(len(lengths)):
        mine = torch.from_numpy(packing.lane == lane)
        expected, after = unroll(model, x[mine], initial[lane])
        torch.testing.assert_close(query[mine], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(state[lane], after, atol=1e-5, rtol=1e-5)


def test_the_scan_and_the_step_have_the_same_gradients_in_every_parameter(model: LRURec) -> None:
    items, initial = torch.randint(SHAPE.items, (9,)), torch.zeros(SHAPE.state)

    def gradients(query: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        torch.autograd.backward((query * torch.linspace(-1, 1, query.numel()).view_as(query)).sum())
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    x = model.embedding(items)
    scanned = gradients(model(x, packing=pack([9]))[0])
    stepped = gradients(unroll(model, model.embedding(items), initial)[0])
    assert scanned.keys() == stepped.keys() == dict(model.named_parameters()).keys() - {"bias"}
    torch.testing.assert_close(scanned, stepped, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_sequence_may_be_scanned_in_pieces(model: LRURec) -> None:
    x = model.embedding(torch.randint(SHAPE.items, (11,)))
    whole, final = model(x, packing=pack([11]))
    first, state = model(x[:4], packing=pack([4]))
    second, after = model(x[4:], state, pack([7]))
    torch.testing.assert_close(torch.cat((first, second)), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after, final, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_query_depends_on_nothing_later_and_on_no_other_sequence(model: LRURec) -> None:
    packing = pack([5, 3])
    x = model.embedding(torch.randint(SHAPE.items, (8,)))
    changed = x.clone()
    other = torch.from_numpy((packing.lane == 1) | (packing.time >= 3))
    changed[other] += 1
    same = ~other
    torch.testing.assert_close(model(x, packing=packing)[0][same], model(changed, packing=packing)[0][same])


@torch.no_grad()
def test_without_input_every_unit_decays_whatever_the_parameters_are(model: LRURec) -> None:
    lru = recurrences(model)[0]
    lru.nu.copy_(torch.linspace(-13, 3, SHAPE.units))
    lru.theta.copy_(torch.linspace(-9, 9, SHAPE.units))
    lru.inner.bias.zero_()
    state = torch.randn(1, 2 * SHAPE.units)
    _, after = lru(torch.zeros(1, SHAPE.width), state, None)
    assert (after.view(2, -1).norm(dim=0) < state.view(2, -1).norm(dim=0)).all()


def test_gamma_starts_as_the_normalisation_of_its_decay() -> None:
    torch.manual_seed(0)
    lru = LRU(width=64, units=128)
    radius = torch.exp(-torch.exp(lru.nu))
    assert ((radius > 0.8) & (radius < 0.99)).all()
    torch.testing.assert_close(torch.exp(lru.log_gamma), torch.sqrt(1 - radius**2))


def test_the_contract_of_the_state_is_512_floats_by_default() -> None:
    assert Shape(items=1).state == 512
