import numpy as np
import pytest
import torch
from torch.nn import functional

from training.fitting import step
from training.fitting.device import CPU
from training.fitting.recipe import Recipe
from training.fitting.step import backward
from training.log.histories import Histories
from training.log.windows import Batch, collate
from training.model.candidates import Candidates, draw
from training.model.lrurec import LRURec, Shape

UNMASKED = Recipe(mask_seen=False)


@pytest.fixture
def batch(ring: Histories, monkeypatch: pytest.MonkeyPatch) -> Batch:
    """More tokens than a share needs."""
    monkeypatch.setattr(step, "TOKENS_PER_SHARE", 16)
    return collate(ring.items, ring.users)


def model_of(dropout: float) -> LRURec:
    torch.manual_seed(0)
    return LRURec(Shape(items=12, width=16, units=8), dropout).train()


def gradients(
    model: LRURec, batch: Batch, threads: int, seed: int = 1, recipe: Recipe = UNMASKED
) -> list[torch.Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    try:
        loss = backward(model, batch, CPU, recipe)
    finally:
        torch.set_num_threads(before)
    found = [torch.tensor(loss)]
    for parameter in model.parameters():
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
    return found


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_whatever_the_threads_it_is_the_gradient_of_cross_entropy(threads: int, batch: Batch) -> None:
    model = model_of(dropout=0.0)
    query, _ = model(model.embedding(batch.inputs), packing=batch.packing)
    loss = functional.cross_entropy(query @ model.embedding.weight.T + model.bias, batch.targets)
    expected = [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]
    torch.testing.assert_close(gradients(model, batch, threads), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_event_further_ahead_in_the_same_sequence_is_a_target_with_its_weight(
    threads: int, ring: Histories, batch: Batch
) -> None:
    model, ahead = model_of(dropout=0.0), (0.5, 0.0, 0.25)
    query, _ = model(model.embedding(batch.inputs), packing=batch.packing)
    logits = query @ model.embedding.weight.T + model.bias
    of_token = [torch.tensor(0.0)]
    for token, position in enumerate(batch.positions.tolist()):
        end = ring.users.end[np.searchsorted(ring.users.end, position, side="right")]
        for weight, target in zip((1.0, *ahead), range(position + 1, end), strict=False):
            of_token.append(weight * functional.cross_entropy(logits[token], torch.tensor(int(ring.items[target]))))
    loss = torch.stack(of_token).sum() / len(batch.inputs)
    expected = [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]
    found = gradients(model, batch, threads, recipe=Recipe(ahead=ahead, mask_seen=False))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("negatives", [None, 6])
@pytest.mark.parametrize("threads", [1, 3])
def test_what_a_sequence_has_had_is_neither_a_candidate_nor_a_target(
    threads: int, negatives: int | None, ring: Histories, batch: Batch
) -> None:
    model, ahead, items = model_of(dropout=0.0), (0.5, 0.25), 12
    query, _ = model(model.embedding(batch.inputs), packing=batch.packing)
    torch.manual_seed(1)
    drawn = draw(batch.targets, items, negatives, "cpu") or Candidates(torch.arange(items), torch.zeros(items))
    weights = torch.full((items,), -torch.inf)
    weights[drawn.rows] = drawn.correction
    logits = query @ model.embedding.weight.T + model.bias + weights
    of_token, repeats = [torch.tensor(0.0)], 0
    for token, position in enumerate(batch.positions.tolist()):
        user = np.searchsorted(ring.users.end, position, side="right")
        had = ring.items[ring.users.begin[user] : position + 1]
        masked = logits[token].index_fill(0, torch.from_numpy(had.astype(np.int64)), -torch.inf)
        for weight, target in zip((1.0, *ahead), ring.items[position + 1 : ring.users.end[user]], strict=False):
            if target in had:
                repeats += 1
            else:
                of_token.append(weight * functional.cross_entropy(masked, torch.tensor(int(target))))
    assert repeats
    assert len(of_token) > len(batch.inputs) / 4
    loss = torch.stack(of_token).sum() / len(batch.inputs)
    expected = [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]
    found = gradients(model, batch, threads, recipe=Recipe(ahead=ahead, negatives=negatives))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_seed_drops_the_same_and_another_does_not(threads: int, batch: Batch) -> None:
    model = model_of(dropout=0.5)
    first, again, other = (gradients(model, batch, threads, seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


@pytest.mark.usefixtures("batch")
def test_a_batch_of_fewer_sequences_than_threads_is_a_share_for_each(ring: Histories) -> None:
    few = collate(ring.items, ring.users[-2:])
    assert len(few.inputs) > 3 * step.TOKENS_PER_SHARE
    assert [len(share.packing.order) for share in step._shares(few, 3)] == [1, 1]
    assert gradients(model_of(dropout=0.0), few, 3)[0].isfinite()


def test_every_sequence_is_in_one_share(batch: Batch) -> None:
    shares = step._shares(batch, 3)
    assert sorted(np.concatenate([share.packing.order for share in shares])) == list(range(len(batch.packing.order)))
    assert sum(len(share.inputs) for share in shares) == len(batch.inputs)
    assert max(len(share.inputs) for share in shares) < 1.2 * min(len(share.inputs) for share in shares)
