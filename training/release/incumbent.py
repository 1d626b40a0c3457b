"""The present champion, back in torch: to be compared with, and to go on from."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from schemas.artefact import CATALOGUE, ITEMS, Manifest, decode_catalogue
from schemas.artefact_store import ArtefactStore
from training.fitting.device import Device
from training.fitting.evaluation import rank
from training.log.histories import Histories, Spans
from training.model.lrurec import LRURec
from training.release.artefact import load

MISSED: Final = np.iinfo(np.int64).max
"""rank of an item that cannot be ranked"""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Incumbent:
    """A model that is, or was, in service."""

    version: int
    model: LRURec
    """On the CPU, in evaluation mode."""
    item_ids: list[str]
    """[N] in row order."""

    def rows_of(self, item_ids: list[str]) -> NDArray[np.int64]:
        """[len(item_ids)] its row of each item; -1 for an item that it does not know."""
        row_of = {item_id: row for row, item_id in enumerate(self.item_ids)}
        return np.array([row_of.get(item_id, -1) for item_id in item_ids], dtype=np.int64)

    def rank(self, histories: Histories, held_out: Spans, window: int, device: Device) -> NDArray[np.int64]:
        """Its rank of each held-out event, in the order of the events.

        As a worker does, it passes over items of a history that it does not know. An event with such an item is missed,
        and so is one with nothing known before it.
        """
        rows = self.rows_of(histories.item_ids)[histories.items]
        known_before = np.concatenate(([0], np.cumsum(rows >= 0)))
        known = Histories(
            rows[rows >= 0].astype(np.int32),
            histories.timestamps_ms[rows >= 0],
            Spans(known_before[histories.users.begin], known_before[histories.users.end]),
            self.item_ids,
        )
        asked = Spans(known_before[held_out.begin], known_before[held_out.end])
        model = self.model.to(device.name)
        found = rank(model, known, asked, window, device)
        model.to("cpu")
        ranks = np.full(len(rows), MISSED, dtype=np.int64)
        ranks[np.flatnonzero(rows >= 0)[found.events]] = found.ranks
        return ranks[positions(held_out)]


def load_incumbent(store: ArtefactStore, manifest: Manifest) -> Incumbent | None:
    """The model of this manifest, its files verified; None, and a line in the log, if it cannot be loaded."""
    try:
        files = store.read(manifest)
        item_ids = list(decode_catalogue(files[CATALOGUE], files[ITEMS]).item_ids)
        return Incumbent(manifest.version, load(manifest, files), item_ids)
    except Exception as error:  # the file systems' packages and the formats' raise exceptions of their own
        _log.warning(
            "the champion cannot be loaded: there is nothing to compare with or to go on from",
            version=manifest.version,
            kind=type(error).__name__,
            error=str(error) or repr(error),
        )
        return None


def positions(spans: Spans) -> NDArray[np.int64]:
    """The positions of all events of the spans, span by span."""
    lengths = spans.lengths
    first: NDArray[np.int64] = np.repeat(spans.begin - (np.cumsum(lengths) - lengths), lengths)
    return first + np.arange(len(first))
