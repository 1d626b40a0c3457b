"""Who a candidate is held against: the present champion, or nobody and the reason for it.

The champion may have learned from nearly all of the log. So its manifest says up to which time, and a candidate is
compared with it on events after that alone: what is newer than everything that the champion learned from, it cannot
have learned from. No more than the newer half of those events is held out, so that the candidate has learned from the
other half: then it is measured with no older knowledge than the champion's, as it will serve.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import structlog

from schemas.artefact import Gate
from schemas.artefact_store import ArtefactStore
from training.fitting.device import Device
from training.fitting.evaluation import rank
from training.log.histories import Histories, Spans
from training.log.holdout import Holdout
from training.model.lrurec import LRURec
from training.release.champion import announced
from training.release.gate import MIN_EVENTS, judge, owners, unseen
from training.release.incumbent import Incumbent, load_incumbent
from training.run import Run

_log = structlog.get_logger()


@dataclass(frozen=True)
class Opponent:
    """The champion as far as it can be compared with."""

    incumbent: Incumbent | None = None
    since_ms: int | None = None
    """UTC milliseconds after which it has learned from nothing, if enough events are newer to compare on them."""
    reason: str = ""
    """Why nothing can be compared, if it cannot."""
    asked: bool = True
    """Whether it is to be compared with, or only to go on from."""
    champion: int | None = None
    """Its version, also where it cannot be loaded; None if there is none."""
    latest_ms: int | None = None
    """The latest time, in UTC milliseconds, that an event can have."""

    @property
    def compares(self) -> bool:
        """Whether there is something to compare with, and on."""
        return self.asked and self.incumbent is not None and self.since_ms is not None

    def uncompared(self) -> Gate:
        """What is said of a candidate when nothing can be compared."""
        champion = self.incumbent.version if self.incumbent else None
        gate = Gate(verdict="uncompared", reason=self.reason, champion=champion)
        _log.info("gate", **gate.model_dump(exclude_none=True))
        return gate

    def judge(self, histories: Histories, holdout: Holdout, window: int, device: Device, candidate: LRURec) -> Gate:
        """Rank what is held out and unseen by both, and compare.

        Args:
            histories: of U users.
            holdout: the test events count, if there are any, else those for validation.
            window: see `rank`.
            device: where both are run.
            candidate: on the device, trained on what is not held out.
        """
        if self.incumbent is None or self.since_ms is None:
            return self.uncompared()
        held_out = holdout.test if holdout.test.events else holdout.validation
        spans = unseen(histories, held_out, self.since_ms, self.latest_ms)
        ours = rank(candidate, histories, spans, window, device)
        theirs = self.incumbent.rank(histories, spans, window, device)
        gate = judge(self.incumbent.version, owners(histories.users, ours.events), ours.ranks, theirs)
        _log.info("gate", **gate.model_dump(exclude_none=True))
        return gate


def superseded(run: Run, opponent: Opponent, gate: Gate) -> Gate | None:
    """What is said of a candidate if another champion was announced since its opponent was found; None if none was.

    A rollback, a promotion or another training came in between: it must not be undone by a candidate that was not held
    against it.

    Raises:
        KafkaException: the cluster cannot be reached.
    """
    if not run.gate:
        return None
    champions = announced(run)
    present = champions[-1].manifest.version if champions else None
    if present == opponent.champion:
        return None
    reason = f"the champion is {present} since this was trained, it was {opponent.champion}"
    return gate.model_copy(update={"verdict": "rejected", "reason": reason})


def find_opponent(run: Run, store: ArtefactStore, histories: Histories, latest_ms: int) -> Opponent:
    """The champion that the topic `models` says last, its files verified.

    Args:
        run: says whether there is to be one.
        store: has its files.
        histories: what there is to learn from.
        latest_ms: the latest time, in UTC milliseconds, that an event can have.

    Raises:
        KafkaException: the cluster cannot be reached.
    """
    if run.from_inter is not None:
        return Opponent(reason="trained on a file")
    if not run.gate and run.start == "cold":
        return Opponent(reason="nothing was to be compared: --no-gate")
    champions = announced(run)
    if not champions:
        return Opponent(reason="no champion to compare: none was announced")
    manifest = champions[-1].manifest
    incumbent = load_incumbent(store, manifest)
    found = Opponent(incumbent, asked=run.gate, champion=manifest.version, latest_ms=latest_ms)
    if incumbent is None:
        return replace(found, reason=f"no champion to compare: {manifest.version} cannot be loaded")
    since_ms = manifest.trained_until_ms
    if since_ms is None:
        return replace(found, reason=f"champion {manifest.version} does not say up to when it has learned")
    new = int(((histories.timestamps_ms > since_ms) & (histories.timestamps_ms <= latest_ms)).sum())
    if new < 2 * MIN_EVENTS:
        reason = f"too few new events to compare: {new} since the champion, not {2 * MIN_EVENTS}"
        return replace(found, reason=reason)
    return replace(found, since_ms=since_ms, reason="" if run.gate else "nothing was to be compared: --no-gate")


def newest_ms(histories: Histories, trained: Spans) -> int | None:
    """The time of the newest event in these spans; one that claims to come from the future does not count."""
    edge = np.zeros(len(histories.items) + 1, dtype=np.int64)
    np.add.at(edge, trained.begin, 1)
    np.add.at(edge, trained.end, -1)
    times_ms = histories.timestamps_ms[np.cumsum(edge)[:-1] > 0]
    past_ms = times_ms[times_ms <= time.time_ns() // 1_000_000]
    return int(past_ms.max()) if past_ms.size else None
