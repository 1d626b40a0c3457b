import pytest
import torch

from training.model.dropout import Dropout


def test_the_dropped_share_is_the_rate_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    y = Dropout(0.3)(torch.ones(1001, 999))
    assert (y == 0).float().mean() == pytest.approx(0.3, abs=0.003)
    assert y.mean() == pytest.approx(1, abs=0.005)


def test_every_byte_of_a_draw_is_unbiased() -> None:
    torch.manual_seed(0)
    y = Dropout(0.5)(torch.ones(100_000, 8))
    torch.testing.assert_close((y == 0).float().mean(0), torch.full((8,), 0.5), atol=0.01, rtol=0)


def test_gradients_flow_through_the_kept_elements_only() -> None:
    torch.manual_seed(0)
    x = torch.ones(64, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_evaluation_and_rate_zero_change_nothing() -> None:
    x = torch.randn(17)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0)(x) is x


def test_a_rate_near_one_leaves_something_finite() -> None:
    torch.manual_seed(0)
    y = Dropout(0.999)(torch.ones(10_000))
    assert y.isfinite().all()
    assert 0 < (y != 0).float().mean() < 0.01


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_is_no_probability_of_staying_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="dropout rate"):
        Dropout(rate)
