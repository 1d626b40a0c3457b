import math

import numpy as np
import onnx
import pytest
import torch

from training.model.lrurec import LRURec, Shape
from training.model.packing import pack
from training.model.step_graph import GraphMismatch, check_graph, export_chunk, export_step
from training.release.probes import fold, load_graph


@pytest.fixture(scope="module")
def model() -> LRURec:
    torch.manual_seed(0)
    return LRURec(Shape(items=30)).eval()


@pytest.fixture(scope="module")
def graph(model: LRURec) -> bytes:
    return export_step(model)


@torch.no_grad()
def test_stepping_the_graph_over_histories_gives_the_queries_of_the_scan(model: LRURec, graph: bytes) -> None:
    rows = np.array([[4, 9, 4, 29, 0], [7, -1, -1, -1, -1], [1, 2, 3, -1, -1]], dtype=np.int32)
    lengths = (rows >= 0).sum(1)
    packing = pack(lengths)
    items = torch.from_numpy(rows[packing.order[packing.lane], packing.time].astype(np.int64))
    query, _ = model(model.embedding(items), packing=packing)
    expected = np.zeros((3, 64), dtype=np.float32)
    expected[packing.order] = query[packing.last].numpy()
    got = fold(load_graph(graph), None, model.embedding.weight.numpy(), rows, model.shape.state)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_graph_has_the_names_and_the_shapes_of_the_contract(graph: bytes) -> None:
    session = load_graph(graph)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("state", ["B", 512]), ("x", ["B", 64])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("next_state", ["B", 512]), ("query", ["B", 64])]


@pytest.mark.parametrize("steps", [2, 5])
def test_a_chunk_does_what_so_many_steps_do(model: LRURec, steps: int) -> None:
    chunk = export_chunk(model, steps)  # compares itself with the model
    session = load_graph(chunk)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("state", ["B", 512]), ("x", ["B", steps, 64])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("next_state", ["B", 512]), ("query", ["B", 64])]


@torch.no_grad()
def test_a_chunk_of_long_memories_and_large_states_is_accepted(model: LRURec) -> None:
    trained = LRURec(model.shape).eval()
    for block in trained.blocks:
        block.lru.nu.fill_(math.log(-math.log(0.9995)))
        block.lru.inner.weight *= 200
    export_chunk(trained, 16)


def test_a_chunk_of_a_model_with_one_block_needs_no_scan() -> None:
    check_graph(export_chunk(model := LRURec(Shape(items=30, blocks=1)).eval(), 4), model, (4,))


def test_histories_go_through_chunks_and_steps_to_the_same_queries(model: LRURec, graph: bytes) -> None:
    rows = np.random.default_rng(0).integers(0, 30, (3, 9)).astype(np.int32)
    rows[1, 5:] = -1
    given = model.embedding.weight.detach().numpy(), rows, model.shape.state
    by_steps = fold(load_graph(graph), None, *given)
    by_chunks = fold(load_graph(graph), load_graph(export_chunk(model, 4)), *given)
    np.testing.assert_allclose(by_chunks, by_steps, atol=1e-5)


def test_a_graph_of_other_weights_is_refused(model: LRURec, graph: bytes) -> None:
    torch.manual_seed(1)
    other = LRURec(model.shape).eval()
    with pytest.raises(GraphMismatch, match="differs by"):
        check_graph(graph, other)


def test_the_graph_says_nothing_of_the_machine_that_exported_it(graph: bytes) -> None:
    assert b"step_graph.py" not in graph
    assert not onnx.load_from_string(graph).metadata_props
