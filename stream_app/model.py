"""A model in service: its graphs in ONNX Runtime and the catalogue it ranks.

Shape letters: B batch, C steps of a chunk, N items, D model width, S state floats, K list length.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from schemas.artefact import CATALOGUE, CHUNK, STEP, Catalogue, Manifest
from schemas.malformed import Malformed
from schemas.recommendation import encode_item_head
from stream_app.ranking import make_ranker

UNKNOWN: Final = -1
"""row of an item that the model does not know"""


class Model:
    """Advances states and ranks items; in several threads, but for `set_unavailable`."""

    def __init__(self, manifest: Manifest, graphs: Mapping[str, bytes], catalogue: Catalogue) -> None:
        """Load the graphs STEP and, where there is one, CHUNK.

        Raises:
            Malformed: a graph cannot be loaded, or its shapes are not the manifest's.
        """
        self.version = manifest.version
        self.state_floats = manifest.state
        self.width = manifest.width
        self.item_ids = catalogue.item_ids
        self.item_heads = _ItemHeads(catalogue.item_ids)
        self._bias = catalogue.bias.copy()  # a view would keep the whole file in memory
        self._sessions = _sessions(manifest, graphs)
        self.strides = sorted(self._sessions, reverse=True)
        """how many items `advance` can take at once, most first; the last one is 1"""
        _check_catalogue(manifest, catalogue)
        self._order = np.argsort(catalogue.hashes).astype(np.int32)
        self._sorted_hashes = catalogue.hashes[self._order]
        self._ranker = make_ranker(catalogue.embedding, catalogue.bias)

    def rows(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Catalogue rows of item hashes, any shape; UNKNOWN for an item the model does not know."""
        at = np.minimum(np.searchsorted(self._sorted_hashes, hashes), len(self._order) - 1)
        return np.where(self._sorted_hashes[at] == hashes, self._order[at], np.int32(UNKNOWN))

    def advance(
        self, states: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Advance `states` f32[B, S] by the items `rows` i32[B, C] each, C one of the `strides`.

        Returns:
            the states after them and the queries f32[B, D].
        """
        steps = rows.shape[1]
        items = self._ranker.embeddings(rows if steps > 1 else rows[:, 0])
        next_states, queries = self._sessions[steps].run(None, {"state": states, "x": items})
        return next_states, queries

    def rank(
        self, queries: NDArray[np.float32], seen: NDArray[np.int32], seen_lengths: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The best unseen and available items for each query; see `Ranker.rank`."""
        return self._ranker.rank(queries, seen, seen_lengths, k)

    def scores(self, queries: NDArray[np.float32], rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Scores f32[B, K] of the items in `rows` i32[B, K] for `queries` f32[B, D]."""
        products: NDArray[np.float32] = np.einsum("bd,bkd->bk", queries, self._ranker.embeddings(rows))
        return products + self._bias[rows]

    def set_unavailable(self, item_hashes: Collection[int]) -> None:
        """From now on these items are never ranked; all others are."""
        rows = self.rows(np.fromiter(item_hashes, np.uint64, len(item_hashes)))
        self._ranker.set_unavailable(rows[rows != UNKNOWN])


class _ItemHeads(dict[int, bytes]):
    """The encoded heads of the items that were ever listed, by row."""

    def __init__(self, item_ids: Sequence[str]) -> None:
        self._item_ids = item_ids

    def __missing__(self, row: int) -> bytes:
        head = self[row] = encode_item_head(self._item_ids[row])
        return head


def _sessions(manifest: Manifest, graphs: Mapping[str, bytes]) -> dict[int, onnxruntime.InferenceSession]:
    """The graphs by the number of steps that each takes."""
    sessions = {1: _session(STEP, graphs[STEP], manifest)}
    if CHUNK in graphs:
        session = _session(CHUNK, graphs[CHUNK], manifest)
        (shape,) = (tensor.shape for tensor in session.get_inputs() if tensor.name == "x")
        match shape:
            case [_, int(steps), _] if steps > 1:
                sessions[steps] = session
            case _:
                raise Malformed(CHUNK, shape, "must take a fixed number of steps, at least two, as the x of each state")
    return sessions


def _session(name: str, graph: bytes, manifest: Manifest) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more than one thread per process stalls under contention
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no other base
        raise Malformed(name, f"{len(graph)} bytes", f"must be an ONNX graph ({error})") from error

    def last(tensors: list[Any]) -> dict[str, Any]:
        return {tensor.name: tensor.shape[-1] if tensor.shape else None for tensor in tensors}

    expected = {"state": manifest.state, "x": manifest.width}, {"next_state": manifest.state, "query": manifest.width}
    found = last(session.get_inputs()), last(session.get_outputs())
    if found != expected:
        raise Malformed(name, found, f"must map {expected[0]} to {expected[1]}")
    return session


def _check_catalogue(manifest: Manifest, catalogue: Catalogue) -> None:
    if catalogue.embedding.shape != (manifest.items, manifest.width):
        raise Malformed(CATALOGUE, catalogue.embedding.shape, f"must be [{manifest.items}, {manifest.width}]")
