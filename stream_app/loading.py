"""The files of an artefact become a model in service, if it gives the answers of its golden probes."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.artefact import CATALOGUE, CHUNK, ITEMS, PROBES, STEP, Manifest, Probes, decode_catalogue, decode_probes
from schemas.malformed import Malformed
from stream_app.fold import Segment, fold
from stream_app.model import UNKNOWN, Model

_TOLERANCE: Final = 1e-4


def load_model(manifest: Manifest, files: Mapping[str, bytes]) -> Model:
    """Load an artefact and run its golden probes.

    Raises:
        Malformed: a file cannot be decoded, shapes do not fit, or a probe gives another answer than at the export.
    """
    catalogue = decode_catalogue(files[CATALOGUE], files[ITEMS])
    model = Model(manifest, files, catalogue)
    _run_probes(model, catalogue.hashes, decode_probes(files[PROBES]))
    return model


def _run_probes(model: Model, hashes: NDArray[np.uint64], probes: Probes) -> None:
    """Fold the probes as a round does: with a query after each item, which takes steps, and with one after the last."""
    rows = np.concatenate((probes.rows, probes.top), axis=1)
    if rows.min() < UNKNOWN or rows.max() >= len(hashes) or probes.top.min() < 0:
        raise Malformed(PROBES, [rows.min(), rows.max()], f"must hold rows below {len(hashes)}")
    if probes.query.shape[1] != model.width:
        raise Malformed(PROBES, probes.query.shape, f"must hold queries of {model.width} floats")
    histories = [hashes[history[history != UNKNOWN]] for history in probes.rows]
    queries = _fold(model, STEP, [Segment(each.tobytes(), 0, b"", b"", range(len(each))) for each in histories], probes)
    everything = np.zeros(0, np.int32), np.zeros(len(queries), np.int64)
    _, best = model.rank(queries, *everything, probes.top.shape[1])
    if not np.allclose(best, model.scores(queries, probes.top), atol=_TOLERANCE):
        raise Malformed(PROBES, best, "must give the export's best items")
    if (steps := model.strides[0]) > 1:
        if (longest := max(map(len, histories))) < steps:
            raise Malformed(PROBES, longest, f"must have a history of {steps} items, to try {CHUNK}")
        _fold(model, CHUNK, [Segment(each.tobytes(), 0, b"", b"", []) for each in histories], probes)


def _fold(model: Model, name: str, segments: Sequence[Segment], probes: Probes) -> NDArray[np.float32]:
    """The queries after `segments`, for which the graph `name` is needed."""
    try:
        queries = fold(model, segments).queries
    except Exception as error:  # the runtime's exceptions share no other base
        raise Malformed(name, f"{len(segments)} states", f"must step any number of states ({error})") from error
    worst = float(np.abs(queries - probes.query).max())
    if not worst <= _TOLERANCE:
        raise Malformed(PROBES, worst, f"must differ from the export's queries by at most {_TOLERANCE} with {name}")
    return queries
