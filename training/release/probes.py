"""Golden probes: histories with the answers that the graphs must give, made at an export, run before an announcement.

A worker runs them again before it serves a model; what fails here would only be refused there. PyTorch is not needed.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from schemas.artefact import CATALOGUE, CHUNK, ITEMS, PROBES, STEP, Manifest, Probes, decode_catalogue, decode_probes
from schemas.artefact_store import ArtefactStore
from schemas.malformed import Malformed

PROBE_COUNT: Final = 8
PROBE_LENGTH: Final = 80
"""so that some have two chunks and more"""
PROBE_TOP: Final = 10
TOLERANCE: Final = 1e-4
"""of a query's floats and of a score, as in a worker: float32 rounding gives about 1e-6"""


def load_graph(graph: bytes) -> onnxruntime.InferenceSession:
    """A session that runs the graph in one thread, as a worker does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def chunk_steps(session: onnxruntime.InferenceSession) -> int:
    """How many steps the graph of a chunk takes at once.

    Raises:
        ValueError: not a fixed number above one.
    """
    (shape,) = (tensor.shape for tensor in session.get_inputs() if tensor.name == "x")
    match shape:
        case [_, int(steps), _] if steps > 1:
            return steps
    raise ValueError(f"x has the shape {shape}: no fixed number of steps above one")


def fold(
    step: onnxruntime.InferenceSession,
    chunk: onnxruntime.InferenceSession | None,
    embedding: NDArray[np.float32],
    rows: NDArray[np.int32],
    state: int,
) -> NDArray[np.float32]:
    """Queries [P, D] after the histories `rows` [P, L], right padded with -1, folded from zero states [P, `state`].

    As many items of each as fill chunks go by `chunk`, if there is one, the others by `step`.

    Raises:
        ValueError: no history is long enough for the chunk.
    """
    states = np.zeros((len(rows), state), dtype=np.float32)
    queries = np.zeros((len(rows), embedding.shape[1]), dtype=np.float32)
    done, lengths = np.zeros(len(rows), int), (rows >= 0).sum(1)
    if chunk is not None and (longest := int(lengths.max())) < chunk_steps(chunk):
        raise ValueError(f"no history fills a chunk of {chunk_steps(chunk)} steps, the longest has {longest} items")
    for session in (step,) if chunk is None else (chunk, step):
        steps = 1 if session is step else chunk_steps(session)
        while len(lanes := np.flatnonzero(lengths - done >= steps)):
            items = embedding[rows[lanes[:, None], done[lanes, None] + np.arange(steps)]]
            feed = {"state": states[lanes], "x": items[:, 0] if session is step else items}
            states[lanes], queries[lanes] = session.run(["next_state", "query"], feed)
            done[lanes] += steps
    return queries


def make_probes(
    step: bytes, embedding: NDArray[np.float32], bias: NDArray[np.float32], state: int, seed: int = 0
) -> Probes:
    """Histories of random items, of lengths up to `PROBE_LENGTH`, with what the step gives for them.

    Random ones, because an artefact outlives a user's wish to be forgotten.
    """
    random = np.random.default_rng(seed)
    rows = random.integers(0, len(embedding), (PROBE_COUNT, PROBE_LENGTH), dtype=np.int32)
    lengths = np.linspace(1, PROBE_LENGTH, PROBE_COUNT).astype(int)
    rows[np.arange(PROBE_LENGTH) >= lengths[:, None]] = -1
    query = fold(load_graph(step), None, embedding, rows, state)
    top = np.argsort(-(query @ embedding.T + bias), axis=1, kind="stable")[:, :PROBE_TOP]
    return Probes(rows, query, top.astype(np.int32))


def prove(store: ArtefactStore, manifest: Manifest) -> None:
    """Read an artefact back from the store and run its probes.

    Raises:
        Malformed: a file differs from the manifest, cannot be decoded, or a probe gives another answer than at export.
        OSError: a file is missing or the store cannot be reached.
    """
    run_probes(manifest, store.read(manifest))


def run_probes(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Run the probes of an artefact's files.

    Raises:
        Malformed: a file cannot be decoded, shapes do not fit, or a probe gives another answer than at the export.
    """
    catalogue, probes = decode_catalogue(files[CATALOGUE], files[ITEMS]), decode_probes(files[PROBES])
    if catalogue.embedding.shape != (manifest.items, manifest.width):
        raise Malformed(CATALOGUE, catalogue.embedding.shape, f"must be [{manifest.items}, {manifest.width}]")
    rows = np.concatenate((probes.rows, probes.top), axis=1)
    if rows.min() < -1 or rows.max() >= manifest.items or probes.top.min() < 0:
        raise Malformed(PROBES, [int(rows.min()), int(rows.max())], f"must hold rows below {manifest.items}")
    given = catalogue.embedding, probes.rows, manifest.state
    step = _load(STEP, files)
    query = _answers(STEP, lambda: fold(step, None, *given), probes)
    if CHUNK in files:
        chunk = _load(CHUNK, files)
        _answers(CHUNK, lambda: fold(step, chunk, *given), probes)
    scores = query @ catalogue.embedding.T + catalogue.bias
    best = -np.sort(-scores, axis=1)[:, : probes.top.shape[1]]
    if not np.allclose(best, np.take_along_axis(scores, probes.top, axis=1), atol=TOLERANCE):
        raise Malformed(PROBES, "other items", "must give the export's best items")


def _load(name: str, files: Mapping[str, bytes]) -> onnxruntime.InferenceSession:
    try:
        return load_graph(files[name])
    except Exception as error:  # the runtime's exceptions share no other base
        raise Malformed(name, f"{len(files[name])} bytes", f"must be an ONNX graph ({error})") from error


def _answers(name: str, folded: Callable[[], NDArray[np.float32]], probes: Probes) -> NDArray[np.float32]:
    """The queries of a fold that needs the graph `name`, if they are those of the probes."""
    try:
        query = folded()
    except Exception as error:  # as above
        raise Malformed(name, "a graph", f"must advance states ({error})") from error
    worst = float(np.abs(query - probes.query).max()) if query.shape == probes.query.shape else float("inf")
    if not worst <= TOLERANCE:
        raise Malformed(PROBES, worst, f"must differ from the export's queries by at most {TOLERANCE} with {name}")
    return query
