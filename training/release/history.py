"""`python -m training history`: every model, how it was judged, and when it was the champion."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from confluent_kafka import KafkaException

from schemas.artefact import Manifest
from schemas.artefact_store import Announcement, ArtefactStore
from schemas.report import Report
from schemas.settings import DONE
from training.release.champion import Announced, announced

_COLUMNS: Final = "{:<14} {:<16} {:<10} {:>11} {:>9} {:>6} {:>6} {:>8}  {}"
_HEADS: Final = "VERSION", "EXPORTED (UTC)", "VERDICT", "EVENTS", "ITEMS", "R@10", "N@10", "SECONDS", "CHAMPION"


class History(Report):
    """List the models, how each was judged, and when it was the champion."""

    def run(self) -> int:
        """Read the store and the topic; a broker that is away is said, and the store is shown.

        Raises:
            Refused: the store is a file.
            OSError: the store cannot be reached.
        """
        store = ArtefactStore(self.artefact_store)
        store.require()
        contents = store.contents()
        try:
            on_topic, answers = announced(self), True
        except (KafkaException, TimeoutError):
            print(f"broker {self.broker} does not answer: this is what the store knows", file=sys.stderr)
            on_topic, answers = [], False
        champions = timeline(contents.announcements, on_topic)
        rows = rows_of(contents.manifests, on_topic, champions)
        result: dict[str, Any] = {
            "broker": answers,
            "champion": champions[-1].version if champions else None,
            "models": rows,
            "champions": [champion.model_dump() for champion in champions],
            "broken": contents.broken,
        }
        self.report("\n".join(_lines(rows, contents.broken)), **result)
        return DONE


def timeline(noted: Iterable[Announcement], on_topic: Iterable[Announced]) -> list[Announcement]:
    """All announcements, oldest first. The topic has the last ones, the store also those that compaction removed."""
    found = {(one.at_ms, one.manifest.version): "" for one in on_topic}
    found |= {(one.at_ms, one.version): one.by for one in noted}
    return [Announcement(version=version, at_ms=at_ms, by=by) for (at_ms, version), by in sorted(found.items())]


def rows_of(
    manifests: Sequence[Manifest], on_topic: Iterable[Announced], champions: Sequence[Announcement]
) -> list[dict[str, Any]]:
    """A row for each model that is in the store or was announced, oldest first."""
    stored = {manifest.version for manifest in manifests}
    known = {one.manifest.version: one.manifest for one in on_topic} | {one.version: one for one in manifests}
    until = [*(champion.at_ms for champion in champions), None][1:]
    reigns: dict[int, list[tuple[int, int | None]]] = {}
    for champion, end in zip(champions, until, strict=True):
        reigns.setdefault(champion.version, []).append((champion.at_ms, end))
    return [
        {
            "version": version,
            "verdict": manifest.gate.verdict if manifest.gate else None,
            "reason": manifest.gate.reason if manifest.gate else None,
            "difference": manifest.gate.difference if manifest.gate else None,
            "start": manifest.parameters.get("start"),
            "events": manifest.metrics.get("events"),
            "items": manifest.items,
            "recall_at_10": _measured(manifest, "recall_at_10"),
            "ndcg_at_10": _measured(manifest, "ndcg_at_10"),
            "seconds": manifest.metrics.get("seconds"),
            "in_store": version in stored,
            "champion": [{"since_ms": since, "until_ms": end} for since, end in reigns.get(version, [])],
        }
        for version, manifest in sorted(known.items())
    ]


def _measured(manifest: Manifest, metric: str) -> float | None:
    """Of the test events if there were any, as that is what was not chosen by."""
    for name in ("test", "validation"):
        if (value := manifest.metrics.get(f"{name}_{metric}")) is not None:
            return value
    return None


def _lines(rows: Sequence[dict[str, Any]], broken: dict[str, str]) -> Iterable[str]:
    yield _COLUMNS.format(*_HEADS)
    for row in rows:
        reigns = ", ".join(_reign(reign) for reign in row["champion"])
        yield _COLUMNS.format(
            row["version"],
            _utc(row["version"]),
            row["verdict"] or "-",
            _figure(row["events"], ",.0f"),
            _figure(row["items"], ",d"),
            _figure(row["recall_at_10"], ".4f"),
            _figure(row["ndcg_at_10"], ".4f"),
            _figure(row["seconds"], ",.1f"),
            reigns + ("" if row["in_store"] else " (not in the store)"),
        ).rstrip()
    if not rows:
        yield "no models"
    for name, problem in broken.items():
        yield f"broken: {name}: {problem}"


def _reign(reign: dict[str, int | None]) -> str:
    since, until = reign["since_ms"], reign["until_ms"]
    return f"now, since {_utc(since)}" if until is None else f"{_utc(since)} to {_utc(until)}"


def _utc(at_ms: int | None) -> str:
    return "" if at_ms is None else f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
