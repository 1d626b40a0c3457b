"""A model in service: the one-step graph in ONNX Runtime and the catalogue it ranks.

Shape letters: B batch, N items, D model width, S state floats, P probes, L probe length, K list length.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from schemas.artefact import (
    CATALOGUE,
    ITEMS,
    PROBES,
    STEP,
    Catalogue,
    Manifest,
    Probes,
    decode_catalogue,
    decode_probes,
)
from schemas.malformed import Malformed
from schemas.recommendation import encode_item_head
from stream_app.ranking import make_ranker

UNKNOWN: Final = -1
"""row of an item that the model does not know"""
_PROBE_TOLERANCE: Final = 1e-4


class Model:
    """Advances states and ranks items; in several threads, but for `set_unavailable`."""

    def __init__(self, manifest: Manifest, step: bytes, catalogue: Catalogue) -> None:
        """Load the graph.

        Raises:
            Malformed: the graph cannot be loaded, or its shapes are not the manifest's.
        """
        self.version = manifest.version
        self.state_floats = manifest.state
        self.width = manifest.width
        self.item_ids = catalogue.item_ids
        self.item_heads = _ItemHeads(catalogue.item_ids)
        self._bias = catalogue.bias.copy()  # a view would keep the whole file in memory
        self._session = _session(step)
        _check_shapes(self._session, manifest, catalogue)
        self._order = np.argsort(catalogue.hashes).astype(np.int32)
        self._sorted_hashes = catalogue.hashes[self._order]
        self._ranker = make_ranker(catalogue.embedding, catalogue.bias)

    def rows(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Catalogue rows of item hashes, any shape; UNKNOWN for an item the model does not know."""
        at = np.minimum(np.searchsorted(self._sorted_hashes, hashes), len(self._order) - 1)
        return np.where(self._sorted_hashes[at] == hashes, self._order[at], np.int32(UNKNOWN))

    def step(
        self, states: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Advance `states` f32[B, S] by one item each, `rows` i32[B]: the next states and the queries f32[B, D]."""
        next_states, queries = self._session.run(None, {"state": states, "x": self._ranker.embeddings(rows)})
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


def load_model(manifest: Manifest, files: Mapping[str, bytes]) -> Model:
    """Load an artefact and run its golden probes.

    Raises:
        Malformed: a file cannot be decoded, shapes do not fit, or a probe gives another answer than at the export.
    """
    model = Model(manifest, files[STEP], decode_catalogue(files[CATALOGUE], files[ITEMS]))
    _run_probes(model, decode_probes(files[PROBES]))
    return model


def _session(step: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more than one thread per process stalls under contention
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(step, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no other base
        raise Malformed(STEP, f"{len(step)} bytes", f"must be an ONNX graph ({error})") from error


def _check_shapes(session: onnxruntime.InferenceSession, manifest: Manifest, catalogue: Catalogue) -> None:
    def last(tensors: list[Any]) -> dict[str, Any]:
        return {tensor.name: tensor.shape[-1] if tensor.shape else None for tensor in tensors}

    expected = {"state": manifest.state, "x": manifest.width}, {"next_state": manifest.state, "query": manifest.width}
    found = last(session.get_inputs()), last(session.get_outputs())
    if found != expected:
        raise Malformed(STEP, found, f"must map {expected[0]} to {expected[1]}")
    if catalogue.embedding.shape != (manifest.items, manifest.width):
        raise Malformed(CATALOGUE, catalogue.embedding.shape, f"must be [{manifest.items}, {manifest.width}]")


def _run_probes(model: Model, probes: Probes) -> None:
    rows = np.concatenate((probes.rows, probes.top), axis=1)
    if rows.min() < UNKNOWN or rows.max() >= len(model.item_ids) or probes.top.min() < 0:
        raise Malformed(PROBES, [rows.min(), rows.max()], f"must hold rows below {len(model.item_ids)}")
    if probes.query.shape[1] != model.width:
        raise Malformed(PROBES, probes.query.shape, f"must hold queries of {model.width} floats")
    states = np.zeros((len(probes.rows), model.state_floats), np.float32)
    queries = np.zeros((len(probes.rows), model.width), np.float32)
    for rows in probes.rows.T:
        known = rows != UNKNOWN
        if known.any():
            try:
                states[known], queries[known] = model.step(states[known], rows[known])
            except Exception as error:  # the runtime's exceptions share no other base
                raise Malformed(STEP, f"{known.sum()} states", f"must step any number of states ({error})") from error
    worst = float(np.abs(queries - probes.query).max())
    if not worst <= _PROBE_TOLERANCE:
        raise Malformed(PROBES, worst, f"must differ from the export's queries by at most {_PROBE_TOLERANCE}")
    everything = np.zeros(0, np.int32), np.zeros(len(queries), np.int64)
    _, best = model.rank(queries, *everything, probes.top.shape[1])
    if not np.allclose(best, model.scores(queries, probes.top), atol=_PROBE_TOLERANCE):
        raise Malformed(PROBES, best, "must give the export's best items")
