"""A small real artefact that needs no training: the state is a decaying sum of embeddings, the query its tanh."""

from typing import Final

import numpy as np

from schemas.artefact import (
    CATALOGUE,
    CHUNK,
    ITEMS,
    PROBES,
    STEP,
    Manifest,
    Probes,
    build_catalogue,
    encode_catalogue,
    encode_probes,
)
from schemas.artefact_store import described
from schemas.settings import Refused

_WIDTH: Final = 16
_GRAPH: Final = """
<ir_version: 10, opset_import: ["" : 18]>
step (float[B, {width}] state, float[B, {width}] x) => (float[B, {width}] next_state, float[B, {width}] query)
<float decay = {{{decay}}}>
{{
  kept = Mul(state, decay)
  next_state = Add(kept, x)
  query = Tanh(next_state)
}}
"""


_STEPS: Final = 8
_CHUNK: Final = """
<ir_version: 10, opset_import: ["" : 18]>
chunk (float[B, {width}] state, float[B, {steps}, {width}] x) => (float[B, {width}] next_state, float[B, {width}] query)
<float decay = {{{decay}}}, float[{steps}, 1] weights = {{{weights}}}, int64[1] steps = {{1}}>
{{
  kept = Mul(state, decay)
  weighted = Mul(x, weights)
  added = ReduceSum<keepdims = 0>(weighted, steps)
  next_state = Add(kept, added)
  query = Tanh(next_state)
}}
"""


def artefact(version: int, item_ids: list[str]) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and files of the model of this version; versions differ in their decay and embeddings.

    Raises:
        Refused: the package that writes the graph is missing.
    """
    try:
        import onnx.parser  # of the extra `training`; only this needs it
    except ImportError:
        raise Refused('the package onnx is missing: pip install "lrurec-stream[training]" brings it') from None

    random = np.random.default_rng(version)
    decay = np.float32(0.5 + 0.4 * random.random())
    embedding = random.standard_normal((len(item_ids), _WIDTH)).astype(np.float32)
    bias = random.standard_normal(len(item_ids)).astype(np.float32)
    rows = random.integers(0, len(item_ids), (2, 2 * _STEPS + 1)).astype(np.int32)
    state = np.zeros((len(rows), _WIDTH), np.float32)
    for column in rows.T:
        state = state * decay + embedding[column]
    query = np.tanh(state)
    top = np.argsort(-(query @ embedding.T + bias), axis=1)[:, :3].astype(np.int32)
    arrays, ids = encode_catalogue(build_catalogue(embedding, bias, item_ids))
    powers = decay ** np.arange(_STEPS, -1, -1)
    chunk = _CHUNK.format(width=_WIDTH, steps=_STEPS, decay=powers[0], weights=", ".join(map(str, powers[1:])))
    files = {
        STEP: onnx.parser.parse_model(_GRAPH.format(width=_WIDTH, decay=decay)).SerializeToString(),
        CHUNK: onnx.parser.parse_model(chunk).SerializeToString(),
        CATALOGUE: arrays,
        ITEMS: ids,
        PROBES: encode_probes(Probes(rows, query, top)),
    }
    manifest = Manifest(
        version=version,
        path=str(version),
        files=described(files),
        items=len(item_ids),
        width=_WIDTH,
        state=_WIDTH,
    )
    return manifest, files
