import math

import pytest
import torch

from training.model.candidates import draw, sampled_softmax
from training.model.full_softmax import Targets, full_softmax

ITEMS, WIDTH = 40, 8


def arrays() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(9, WIDTH), torch.randn(ITEMS, WIDTH), torch.randn(ITEMS), torch.randint(ITEMS, (9,))


@pytest.mark.parametrize("negatives", [None, ITEMS, 10**6])
def test_all_the_catalogue_needs_no_draw(negatives: int | None) -> None:
    assert draw(torch.tensor([1]), ITEMS, negatives, "cpu") is None


def test_the_targets_are_candidates_as_they_are_and_the_others_stand_for_the_rest() -> None:
    candidates = draw(torch.tensor([7, 3, 7]), ITEMS, 10, "cpu")
    assert candidates
    rows = candidates.rows.tolist()
    assert rows == sorted({3, 7, *rows})
    assert 10 <= len(rows) <= 12
    expected = [0.0 if row in (3, 7) else math.log(4) for row in rows]
    assert candidates.correction.tolist() == pytest.approx(expected)


def test_over_drawn_items_it_is_cross_entropy_with_corrected_logits() -> None:
    query, embedding, bias, target = arrays()
    further = [Targets(0.5, torch.tensor([0, 4]), target[[1, 5]])]
    candidates = draw(target, ITEMS, 12, "cpu")
    assert candidates
    leaves = [query.requires_grad_(), embedding.requires_grad_(), bias.requires_grad_()]
    correction = torch.full((ITEMS,), -torch.inf)
    correction[candidates.rows] = candidates.correction
    scores = torch.log_softmax(query @ embedding.T + bias + correction, dim=1)
    loss = -(scores[torch.arange(9), target].sum() + 0.5 * scores[further[0].positions, further[0].items].sum()) / 9
    expected = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    found = sampled_softmax(candidates, query, embedding, bias, target, torch.float32, further=further)
    torch.testing.assert_close(list(found), expected)


def test_over_many_draws_the_denominator_is_that_of_the_whole_catalogue() -> None:
    query, embedding, bias, _ = arrays()
    one, target = query[:1], torch.tensor([3])
    odds = []
    for _ in range(400):
        candidates = draw(target, ITEMS, ITEMS // 2, "cpu")
        assert candidates
        odds.append(sampled_softmax(candidates, one, embedding, bias, target, torch.float32).loss.exp())
    exact = full_softmax(one, embedding, bias, target, torch.float32).loss.exp()
    torch.testing.assert_close(torch.stack(odds).mean(), exact, atol=0, rtol=0.05)
