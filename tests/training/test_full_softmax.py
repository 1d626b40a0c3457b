import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training import full_softmax
from training.full_softmax import full_softmax_loss


@pytest.mark.parametrize("chunk", [1, 40, 10_000])
def test_loss_and_gradients_are_those_of_cross_entropy_whatever_the_chunk(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_softmax, "LOGITS_PER_CHUNK_CPU", chunk)
    torch.manual_seed(0)
    inputs = torch.randn(23, 8), torch.randn(13, 8), torch.randn(13)
    target = torch.randint(13, (23,))

    def both(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        return [loss, *torch.autograd.grad(3 * loss, leaves)]

    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    query, embedding, bias = leaves
    expected = both(functional.cross_entropy(query @ embedding.T + bias, target), leaves)
    torch.testing.assert_close(both(full_softmax_loss(query, embedding, bias, target, torch.float32), leaves), expected)


def test_bfloat16_products_stay_near_float32() -> None:
    torch.manual_seed(0)
    query, embedding, bias, target = torch.randn(64, 8), torch.randn(50, 8), torch.zeros(50), torch.randint(50, (64,))
    exact = functional.cross_entropy(query @ embedding.T + bias, target)
    torch.testing.assert_close(
        full_softmax_loss(query, embedding, bias, target, torch.bfloat16), exact, atol=0.02, rtol=0.01
    )


def test_no_positions_have_no_loss() -> None:
    with pytest.raises(ValueError, match="no positions"):
        full_softmax_loss(
            torch.zeros(0, 8), torch.zeros(5, 8), torch.zeros(5), torch.zeros(0, dtype=torch.int64), torch.float32
        )
