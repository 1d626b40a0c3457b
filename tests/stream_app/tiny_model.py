"""A small real artefact, quick to fold by hand: next_state = decay * state + [x, x], query = tanh(next_state[:D])."""

from collections.abc import Sequence

import numpy as np
import onnx.parser
from numpy.typing import NDArray

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
from schemas.item import item_hash
from stream_app.loading import load_model
from stream_app.model import Model

WIDTH = 4
STATE = 2 * WIDTH
_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
step (float[B, {state}] state, float[B, {width}] x) => (float[B, {state}] next_state, float[B, {width}] query)
<float decay = {{{decay}}}, int64[2] sizes = {{{width}, {width}}}>
{{
  kept = Mul(state, decay)
  xx = Concat<axis = 1>(x, x)
  next_state = Add(kept, xx)
  head, tail = Split<axis = 1>(next_state, sizes)
  query = Tanh(head)
}}
"""
CHUNK_STEPS = 3
_CHUNK_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
chunk (float[B, {state}] state, float[B, {steps}, {width}] x) => (float[B, {state}] next_state, float[B, {width}] query)
<float decay = {{{decay}}}, float[{steps}, 1] weights = {{{weights}}},
 int64[2] sizes = {{{width}, {width}}}, int64[1] one = {{1}}>
{{
  kept = Mul(state, decay)
  weighted = Mul(x, weights)
  sum = ReduceSum<keepdims = 0>(weighted, one)
  xx = Concat<axis = 1>(sum, sum)
  next_state = Add(kept, xx)
  head, tail = Split<axis = 1>(next_state, sizes)
  query = Tanh(head)
}}
"""


class TinyModel:
    """The artefact of version `version` over `item_ids`, and the plain arithmetic that it stands for."""

    def __init__(self, version: int, item_ids: Sequence[str], decay: float = 0.75, width: int = WIDTH) -> None:
        random = np.random.default_rng(version)
        self.version = version
        self.width = width
        self.decay = np.float32(decay)
        self.item_ids = list(item_ids)
        self.embedding = random.standard_normal((len(item_ids), width)).astype(np.float32)
        self.bias = random.standard_normal(len(item_ids)).astype(np.float32)
        self.row_of = {item_hash(item_id): row for row, item_id in enumerate(item_ids)}

    def fold(self, item_hashes: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """State [S] and query [D] after a history, one item at a time; unknown items change nothing."""
        state, query = np.zeros(2 * self.width, np.float32), np.zeros(self.width, np.float32)
        for item in item_hashes:
            if (row := self.row_of.get(item)) is not None:
                state = state * self.decay + np.tile(self.embedding[row], 2)
                query = np.tanh(state[: self.width])
        return state, query

    def top(self, item_hashes: Sequence[int], k: int) -> list[str]:
        """The best k unseen items after a history."""
        scores = self.embedding @ self.fold(item_hashes)[1] + self.bias
        scores[[self.row_of[item] for item in item_hashes if item in self.row_of]] = -np.inf
        best = [row for row in np.argsort(-scores, kind="stable") if scores[row] > -np.inf]
        return [self.item_ids[row] for row in best[:k]]

    def artefact(self) -> tuple[Manifest, dict[str, bytes]]:
        """Manifest and files."""
        catalogue = build_catalogue(self.embedding, self.bias, self.item_ids)
        rows = np.array([[0, 1, -1], [2, 0, 1]], np.int32)
        query = np.stack([self.fold([item_hash(self.item_ids[row]) for row in probe if row >= 0])[1] for probe in rows])
        top = np.argsort(-(query @ self.embedding.T + self.bias), axis=1)[:, :3].astype(np.int32)
        arrays, ids = encode_catalogue(catalogue)
        sizes = {"width": self.width, "state": 2 * self.width, "steps": CHUNK_STEPS}
        weights = ", ".join(str(self.decay**power) for power in reversed(range(CHUNK_STEPS)))
        step = _GRAPH.format(decay=self.decay, **sizes)
        chunk = _CHUNK_GRAPH.format(decay=self.decay**CHUNK_STEPS, weights=weights, **sizes)
        files = {
            STEP: onnx.parser.parse_model(step).SerializeToString(),
            CHUNK: onnx.parser.parse_model(chunk).SerializeToString(),
            CATALOGUE: arrays,
            ITEMS: ids,
            PROBES: encode_probes(Probes(rows, query, top)),
        }
        manifest = Manifest(
            version=self.version,
            path=str(self.version),
            files=described(files),
            items=len(self.item_ids),
            width=self.width,
            state=2 * self.width,
        )
        return manifest, files

    def load(self) -> Model:
        """The model as a worker serves it."""
        return load_model(*self.artefact())
