import numpy as np
import pytest
import torch

from training.fitting.device import CPU
from training.fitting.recipe import Recipe
from training.fitting.step import backward
from training.log.histories import Spans
from training.log.windows import Batch, collate
from training.model.lrurec import LRURec, Shape
from training.rivals.authors import PADDING, AuthorsLRURec, padded, with_parameters

SHAPE = Shape(items=30, width=16, units=12)
BATCHES = [[1], [5, 3], [16, 16, 1], [4, 9, 0, 21, 13]]


@pytest.fixture
def packed() -> LRURec:
    torch.manual_seed(0)
    model = LRURec(SHAPE).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + torch.rand_like(parameter)).add_(0.1 * torch.randn_like(parameter))
    return model


def authors(model: LRURec) -> AuthorsLRURec:
    """With a padding that takes no part in the softmax, as there is none in the packed model."""
    same = with_parameters(SHAPE, model.state_dict()).eval()
    with torch.no_grad():
        same.bias[PADDING] = -torch.inf
    return same


def draw(lengths: list[int]) -> Batch:
    events = np.random.default_rng(1).integers(0, SHAPE.items, sum(lengths) + len(lengths), dtype=np.int32)
    ends = np.cumsum([length + 1 for length in lengths])
    return collate(events, Spans(ends - lengths - 1, ends))


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
@torch.no_grad()
def test_the_authors_formulation_gives_the_queries_of_the_packed_one(packed: LRURec, lengths: list[int]) -> None:
    batch = draw(lengths)
    length = max(lengths) + 2
    items, _ = padded(batch, length)
    expected, _ = packed(packed.embedding(batch.inputs), packing=batch.packing)
    found = authors(packed)(items)[items != PADDING]
    lane_major = np.lexsort((batch.packing.time, batch.packing.lane))
    torch.testing.assert_close(found, expected[torch.from_numpy(lane_major)], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_the_authors_formulation_gives_the_loss_and_the_gradients_of_the_packed_one(
    packed: LRURec, lengths: list[int]
) -> None:
    batch, other = draw(lengths), authors(packed)
    loss = other.loss(*padded(batch, max(lengths) + 1))
    torch.autograd.backward(loss)
    assert backward(packed, batch, CPU, Recipe(mask_seen=False)) == pytest.approx(loss.item(), rel=1e-5)
    gradients = {name: parameter.grad for name, parameter in packed.named_parameters() if parameter.grad is not None}
    found = {name: parameter.grad for name, parameter in other.named_parameters()}
    # the two parts of a complex gradient are those of its parameter
    expected = dict(with_parameters(SHAPE, gradients).state_dict())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_padding_takes_part_in_the_softmax_of_the_authors(packed: LRURec) -> None:
    batch = draw([5, 3])
    own = with_parameters(SHAPE, packed.state_dict()).eval()
    items, targets = padded(batch, 5)
    assert own.loss(items, targets) > authors(packed).loss(items, targets)


def test_the_layout_puts_each_lane_at_the_end_of_its_row() -> None:
    batch = collate(np.array([7, 8, 9, 4, 5], dtype=np.int32), Spans(np.array([0, 3]), np.array([3, 5])))
    items, targets = padded(batch, 4)
    assert items.tolist() == [[0, 0, 8, 9], [0, 0, 0, 5]]
    assert targets.tolist() == [[0, 0, 9, 10], [0, 0, 0, 6]]
