from typing import Any

import numpy as np
import onnx.parser
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.artefact import (
    CATALOGUE,
    CHUNK,
    ITEMS,
    PROBES,
    STEP,
    Probes,
    build_catalogue,
    encode_catalogue,
    encode_probes,
)
from schemas.artefact_store import described
from schemas.item import item_hash
from schemas.malformed import Malformed
from stream_app.loading import load_model
from stream_app.model import UNKNOWN, Model
from tests.stream_app.tiny_model import CHUNK_STEPS, STATE, WIDTH, TinyModel

TINY = TinyModel(1, [f"i{n}" for n in range(5)])
MODEL = TINY.load()
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
step ({type}{state} state, {type}{width} x) => ({type}{state} next_state, {type}{width} query)
{{
  next_state = Tanh(state)
  query = Tanh(x)
}}
"""


def load_with(files: dict[str, bytes], **manifest_changes: Any) -> Model:
    """The artefact with some files replaced, and a manifest that says so."""
    manifest, good = TINY.artefact()
    changed = good | files
    return load_model(manifest.model_copy(update={"files": described(changed), **manifest_changes}), changed)


def catalogue(embedding: Any = TINY.embedding, bias: Any = TINY.bias) -> dict[str, bytes]:
    arrays, ids = encode_catalogue(build_catalogue(embedding, bias, TINY.item_ids[: len(bias)]))
    return {CATALOGUE: arrays, ITEMS: ids}


def graph(*, of: str = "float", state: str = "[B, 8]", width: str = "[B, 4]") -> dict[str, bytes]:
    model = onnx.parser.parse_model(GRAPH.format(type=of, state=state, width=width))
    return {STEP: model.SerializeToString()}


def probes(rows: Any, top: Any, query: Any = None) -> dict[str, bytes]:
    if query is None:
        query = np.zeros((len(rows), WIDTH), np.float32)
    return {PROBES: encode_probes(Probes(np.array(rows, np.int32), query, np.array(top, np.int32)))}


def test_a_good_artefact_is_loaded():
    model = load_with({})
    assert (model.version, model.width, model.state_floats) == (1, WIDTH, STATE)


def test_a_graph_with_a_changed_weight_is_refused():
    _, other = TinyModel(1, TINY.item_ids, decay=0.7).artefact()
    with pytest.raises(Malformed, match="must differ from the export's queries by at most"):
        load_with({STEP: other[STEP]})


def test_a_changed_embedding_is_refused():
    changed = TINY.embedding.copy()
    changed[1, 2] += 0.01
    with pytest.raises(Malformed, match="must differ from the export's queries by at most"):
        load_with(catalogue(changed))


def test_an_embedding_that_is_not_a_number_is_refused():
    changed = TINY.embedding.copy()
    changed[0, 0] = np.nan
    with pytest.raises(Malformed, match=PROBES):
        load_with(catalogue(changed))


def test_a_bias_that_changes_the_best_items_is_refused():
    bias = TINY.bias.copy()
    bias[4] += 100
    manifest, files = TINY.artefact()
    shorter = probes([[0]], [[1]], TINY.fold([item_hash("i0")])[1][None])  # a probe whose best item is not 4
    with pytest.raises(Malformed, match="must give the export's best items"):
        load_model(manifest, files | catalogue(bias=bias) | shorter)


@pytest.mark.parametrize("step", [b"", b"rubbish", bytes(1000)])
def test_a_graph_that_onnx_runtime_cannot_load_is_malformed(step: bytes):
    with pytest.raises(Malformed, match="must be an ONNX graph"):
        load_with({STEP: step})


@pytest.mark.parametrize(
    "shapes", [{"state": "[B, 9]"}, {"width": "[B, 5]"}, {"state": "", "width": ""}, {"state": "[B, C]"}]
)
def test_a_graph_of_other_shapes_than_the_manifests_is_malformed(shapes: dict[str, str]):
    with pytest.raises(Malformed, match="must map"):
        load_with(graph(**shapes))


def test_a_graph_with_other_names_is_malformed():
    step = onnx.parser.parse_model(GRAPH.format(type="float", state="[B, 8]", width="[B, 4]").replace("query", "best"))
    with pytest.raises(Malformed, match="must map"):
        load_with({STEP: step.SerializeToString()})


@pytest.mark.parametrize(
    "wrong",
    [{"of": "double"}, {"state": "[1, 8]", "width": "[1, 4]"}, {"state": "[8]", "width": "[4]"}],
    ids=["double", "one state", "no batch"],
)
def test_a_graph_that_cannot_step_any_number_of_float32_states_is_malformed(wrong: dict[str, str]):
    with pytest.raises(Malformed, match="must step any number of states"):
        load_with(graph(**wrong))


@pytest.mark.parametrize("steps", ["", "C, ", "1, ", "2, 3, "])
def test_a_chunk_of_no_fixed_number_of_steps_is_malformed(steps: str):
    with pytest.raises(Malformed, match="must take a fixed number of steps"):
        load_with({CHUNK: graph(width=f"[B, {steps}4]")[STEP]})


def test_a_chunk_that_gives_other_answers_than_the_steps_is_refused():
    _, other = TinyModel(1, TINY.item_ids, decay=0.7).artefact()
    with pytest.raises(Malformed, match="must differ from the export's queries by at most"):
        load_with({CHUNK: other[CHUNK]})


def test_a_chunk_that_no_probe_is_long_enough_for_is_refused():
    _, query = TINY.fold([item_hash("i0")])
    with pytest.raises(Malformed, match="must have a history of 3 items"):
        load_with(probes([[0]], [[int(np.argmax(TINY.embedding @ query + TINY.bias))]], query[None]))


def test_a_model_without_a_chunk_takes_one_step_at_a_time():
    manifest, files = TINY.artefact()
    del files[CHUNK]
    model = load_model(manifest, files)
    assert (model.strides, MODEL.strides) == ([1], [CHUNK_STEPS, 1])


@pytest.mark.parametrize("change", [{"items": 6}, {"width": 5}, {"state": 9}])
def test_a_manifest_of_other_shapes_than_the_files_is_malformed(change: dict[str, int]):
    with pytest.raises(Malformed, match="must"):
        load_with({}, **change)


@pytest.mark.parametrize(
    ("rows", "top"),
    [([[5]], [[0]]), ([[0]], [[5]]), ([[-2]], [[0]]), ([[0]], [[-1]])],
)
def test_probes_outside_the_catalogue_are_malformed(rows: Any, top: Any):
    with pytest.raises(Malformed, match="must hold rows below 5"):
        load_with(probes(rows, top))


def test_probes_of_another_width_are_malformed():
    with pytest.raises(Malformed, match="must hold queries of 4 floats"):
        load_with(probes([[0]], [[0]], np.zeros((1, WIDTH + 1), np.float32)))


@pytest.mark.parametrize("name", [CATALOGUE, ITEMS, PROBES])
@pytest.mark.parametrize("content", [b"", b"rubbish", bytes(100)])
def test_a_file_of_rubbish_is_malformed(name: str, content: bytes):
    with pytest.raises(Malformed):
        load_with({name: content})


@given(st.lists(st.sampled_from(list(TINY.row_of)) | st.integers(0, (1 << 64) - 1)))
@example([0, (1 << 64) - 1])
def test_items_are_found_by_hash_and_unknown_ones_are_not(hashes: list[int]):
    rows = MODEL.rows(np.array(hashes, np.uint64))
    assert rows.tolist() == [TINY.row_of.get(item, UNKNOWN) for item in hashes]
    assert rows.dtype == np.int32


def test_rows_keep_the_shape_of_the_hashes():
    hashes = np.array(list(TINY.row_of)[:4], np.uint64).reshape(2, 2)
    assert MODEL.rows(hashes).tolist() == [[0, 1], [2, 3]]


def test_scores_are_the_embedding_times_the_query_plus_the_bias():
    queries = np.random.default_rng(0).standard_normal((2, WIDTH)).astype(np.float32)
    rows = np.array([[0, 3], [4, 4]], np.int32)
    expected = np.take_along_axis(queries @ TINY.embedding.T + TINY.bias, rows, axis=1)
    np.testing.assert_allclose(MODEL.scores(queries, rows), expected, rtol=1e-5)


def test_unavailable_items_are_named_by_hash_and_unknown_ones_do_not_matter():
    model = TINY.load()
    model.set_unavailable([item_hash("i1"), 12345])
    rows, scores = model.rank(np.zeros((1, WIDTH), np.float32), np.zeros(0, np.int32), np.zeros(1, np.int64), 5)
    assert sorted(rows[np.isfinite(scores)].tolist()) == [0, 2, 3, 4]
