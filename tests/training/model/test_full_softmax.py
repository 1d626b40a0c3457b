import pytest
import torch
from torch.nn import functional

from training.model import full_softmax as module
from training.model import kernels
from training.model.full_softmax import Targets, full_softmax
from training.model.seen import Seen


@pytest.fixture(params=["kernels", "pytorch", "gpu kernels"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "gpu kernels":
        request.getfixturevalue("gpu_kernels")
    if request.param == "pytorch":
        monkeypatch.setattr("training.model.kernels.library", lambda: None)


def cut(monkeypatch: pytest.MonkeyPatch, held: int, chunk: int = module.LOGITS_PER_CHUNK_CPU) -> None:
    """Hold the probabilities of so many positions, and make so many logits, at a time."""
    for name in ("POSITIONS_MIN", "POSITIONS_MAX", "KERNEL_POSITIONS"):
        monkeypatch.setattr(module, name, held)
    monkeypatch.setattr(module, "LOGITS_PER_CHUNK_CPU", chunk)


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize(("held", "chunk"), [(1, 1), (7, 40), (23, 10_000)])
def test_loss_and_gradients_are_those_of_cross_entropy_however_it_is_cut(
    held: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, held, chunk)
    torch.manual_seed(0)
    leaves = [(5 * torch.randn(shape)).requires_grad_() for shape in ((23, 8), (13, 8), (13,))]
    query, embedding, bias = leaves
    target = torch.randint(13, (23,))
    loss = functional.cross_entropy(query @ embedding.T + bias, target)
    expected = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    found = full_softmax(query, embedding, bias, target, torch.float32)
    torch.testing.assert_close(list(found), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("arithmetic")
def test_further_targets_add_their_weighted_cross_entropies(monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, held=7)
    torch.manual_seed(0)
    leaves = [(5 * torch.randn(shape)).requires_grad_() for shape in ((23, 8), (13, 8), (13,))]
    query, embedding, bias = leaves
    target = torch.randint(13, (23,))
    further = [
        Targets(0.5, torch.randperm(23)[:17], torch.randint(13, (17,))),
        Targets(0.25, torch.randperm(23)[:3], torch.randint(13, (3,))),
    ]
    logits = query @ embedding.T + bias
    loss = functional.cross_entropy(logits, target, reduction="sum")
    for more in further:
        loss = loss + more.weight * functional.cross_entropy(logits[more.positions], more.items, reduction="sum")
    loss = loss / 23
    expected = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    found = full_softmax(query, embedding, bias, target, torch.float32, further=further)
    torch.testing.assert_close(list(found), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize(("held", "chunk"), [(1, 1), (7, 2000), (50, 100_000)])
def test_each_position_leaves_out_what_its_lane_has_had(
    held: int, chunk: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, held, chunk)
    torch.manual_seed(0)
    items, lanes, steps = 400, 3, 40
    leaves = [torch.randn(lanes * steps, 8), torch.randn(items, 8), torch.randn(items)]
    query, embedding, bias = leaves = [leaf.requires_grad_() for leaf in leaves]
    lane, time = torch.arange(lanes).repeat(steps), torch.arange(steps, dtype=torch.int32).repeat_interleave(lanes)
    item, target = torch.randint(items, (lanes * steps,)), torch.randint(items, (lanes * steps,))
    target[60] = item[57]  # a repeat
    item[lane == 1] = torch.arange(steps) - 10  # one lane begins with items that are not in the catalogue
    had = (lane[:, None] == lane) & (time[None] <= time[:, None]) & (item >= 0)
    hidden = torch.zeros(lanes * steps, items, dtype=torch.bool)
    position, earlier = had.nonzero(as_tuple=True)
    hidden[position, item[earlier]] = True
    new = ~hidden[torch.arange(lanes * steps), target]
    assert 0 < (~new).sum() < 10
    logits = (query @ embedding.T + bias).masked_fill(hidden, -torch.inf)
    loss = functional.cross_entropy(logits[new], target[new], reduction="sum") / len(query)
    expected = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    found = full_softmax(query, embedding, bias, target, dtype, seen=Seen(lane, time, item))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < tolerance * other.norm()


@pytest.mark.usefixtures("arithmetic")
def test_a_position_that_has_had_every_item_adds_nothing() -> None:
    torch.manual_seed(0)
    query, embedding, bias = torch.randn(3, 8), torch.randn(2, 8), torch.randn(2)
    seen = Seen(torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1], dtype=torch.int32), torch.tensor([0, 1, 1]))
    found = full_softmax(query, embedding, bias, torch.tensor([1, 0, 0]), torch.float32, seen=seen)
    for of_everything in found:  # a softmax of one item is certain, and the third position has none
        torch.testing.assert_close(of_everything, torch.zeros_like(of_everything), atol=1e-6, rtol=0)


def test_a_share_of_the_positions_has_its_share_of_the_loss() -> None:
    torch.manual_seed(0)
    query, embedding, bias, target = torch.randn(9, 8), torch.randn(13, 8), torch.randn(13), torch.randint(13, (9,))
    whole = full_softmax(query, embedding, bias, target, torch.float32)
    parts = [
        full_softmax(query[part], embedding, bias, target[part], torch.float32, 9) for part in (slice(4), slice(4, 9))
    ]
    for name in ("loss", "embedding", "bias"):
        torch.testing.assert_close(getattr(parts[0], name) + getattr(parts[1], name), getattr(whole, name))
    torch.testing.assert_close(torch.cat((parts[0].query, parts[1].query)), whole.query)


@pytest.mark.usefixtures("arithmetic")
def test_bfloat16_products_stay_near_float32() -> None:
    torch.manual_seed(0)
    query, embedding, bias, target = torch.randn(64, 8), torch.randn(50, 8), torch.randn(50), torch.randint(50, (64,))
    exact = full_softmax(query, embedding, bias, target, torch.float32)
    torch.testing.assert_close(
        full_softmax(query, embedding, bias, target, torch.bfloat16), exact, atol=0.02, rtol=0.02
    )


@pytest.mark.parametrize("width", [1, 48, 64, 100])
@pytest.mark.parametrize("items", [191, 192, 500])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_the_kernel_computes_what_pytorch_does_for_catalogues_of_any_size_and_width(
    width: int, items: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels.library() is None:
        pytest.skip("no C++ compiler")
    torch.manual_seed(0)
    query, embedding, bias = torch.randn(201, width), torch.randn(items, width) / width**0.5, torch.randn(items)
    target = torch.randint(items, (201,))
    found = full_softmax(query, embedding, bias, target, dtype)
    monkeypatch.setattr("training.model.kernels.library", lambda: None)
    expected = full_softmax(query, embedding, bias, target, torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < tolerance * other.norm()


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_logits_that_grow_over_the_catalogue_lose_nothing(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(20, 8), torch.randn(1000, 8), torch.linspace(0, 200, 1000)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    query, embedding, bias = leaves
    target = torch.randint(1000, (20,))
    loss = functional.cross_entropy(query @ embedding.T + bias, target)
    expected = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    for one, other in zip(full_softmax(query, embedding, bias, target, dtype), expected, strict=True):
        assert (one - other).norm() < tolerance * other.norm()


@pytest.mark.usefixtures("arithmetic")
def test_logits_beyond_what_an_exponential_can_hold_are_no_trouble() -> None:
    query, embedding = torch.tensor([[300.0]]), torch.tensor([[1.0], [-1.0], [0.99]])
    found = full_softmax(query, embedding, torch.zeros(3), torch.tensor([2]), torch.float32)
    torch.testing.assert_close(
        found.loss, torch.tensor(3.0 + torch.tensor(-3.0).exp().log1p().item()), rtol=1e-4, atol=0
    )


def test_no_positions_have_no_loss() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="no positions"):
        full_softmax(torch.zeros(0, 8), torch.zeros(5, 8), torch.zeros(5), none, torch.float32)
