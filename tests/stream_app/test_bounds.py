import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stream_app import bounds
from stream_app.bounds import GroupBounds, Seen

NOTHING = Seen(*[np.zeros(0, np.int64)] * 3)


def test_the_graph_is_the_one_that_its_comment_says():
    def tensor(name: str, kind: int, *shape: str):
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [tensor("a", TensorProto.UINT8, "E", "D"), tensor("b", TensorProto.INT8, "D", "N")]
    inputs.append(tensor("z", TensorProto.UINT8))
    node = helper.make_node("MatMulInteger", ["a", "b", "z"], ["y"])
    graph = helper.make_graph([node], "g", inputs, [tensor("y", TensorProto.INT32, "E", "N")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert onnx.load_from_string(bounds._PRODUCT) == model


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("members", [1, 4])
def test_bounds_are_never_too_low_and_little_too_high(members: int, exact: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "_BLOCK_COLUMNS", 10)
    monkeypatch.setattr(bounds, "_BLOCK_ITEMS", 10)
    if not exact:
        monkeypatch.setattr(GroupBounds, "_is_exact", lambda _: False)
    random = np.random.default_rng(0)
    items = random.standard_normal((333, members, 64)).astype(np.float32)
    queries = (random.standard_normal((50, 64)) * 10 ** random.uniform(-4, 4, (50, 1))).astype(np.float32)
    bias = random.standard_normal(333).astype(np.float32)
    found = np.empty((50, 333), np.float32)
    GroupBounds(items).compute(queries, bias, NOTHING, found)
    best = np.einsum("ed,crd->ecr", queries.astype(np.float64), items).max(axis=2) + bias
    above = (found - best) / np.linalg.norm(queries, axis=1, keepdims=True)
    assert above.min() >= 0
    assert above.mean() < (0.25 if exact else 0.35), "of scores whose deviation is 1"


def test_items_that_were_seen_do_not_count():
    items = np.array([[[3.0, 0], [1, 0]], [[2, 0], [2, 0]]], np.float32)
    found = np.empty((2, 2), np.float32)
    seen = Seen(*(np.array(at) for at in ([0, 1, 1], [0, 1, 1], [0, 0, 1])))
    GroupBounds(items).compute(np.ones((2, 2), np.float32), np.zeros(2, np.float32), seen, found)
    np.testing.assert_allclose(found[[0, 0, 1], [0, 1, 0]], [1, 2, 3], atol=0.1)
    assert found[1, 1] < -1000
