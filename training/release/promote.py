"""`python -m training promote` and `rollback`: an older model becomes the champion again, once its probes hold."""

from collections.abc import Sequence
from typing import Final

import structlog
from pydantic import Field
from pydantic_settings import CliPositionalArg

from schemas import logs
from schemas.artefact import Gate, Manifest
from schemas.artefact_store import Announcement, ArtefactStore, Contents
from schemas.malformed import Malformed
from schemas.report import Report
from schemas.settings import DONE, Refused
from training.release.champion import announce, announced, require_topic
from training.release.history import timeline
from training.release.probes import prove

_NAMED: Final = 10
"""versions that an error lists, the newest"""

_log = structlog.get_logger()


class Promote(Report):
    """Make a model of the store the champion."""

    version: CliPositionalArg[int] = Field(gt=0, description="of the model, as the history lists it")
    force: bool = Field(False, description="also a model that the gate has rejected")

    def run(self) -> int:
        """Check the model and announce it.

        Raises:
            Refused: there is no such model, it is damaged, or it was rejected; or there is no topic to announce it on.
            KafkaException: the broker does not answer.
        """
        logs.configure(self.log_level)
        store = ArtefactStore(self.artefact_store)
        store.require()
        manifest = find(store.contents(), self.version, self.artefact_store)
        if manifest.gate and manifest.gate.verdict == "rejected" and not self.force:
            figures = _figures(manifest.gate)
            raise Refused(f"model {self.version} was rejected, {figures}: --force promotes it all the same")
        if problem := problem_of(store, manifest):
            raise Refused(problem)
        require_topic(self)
        champions = announced(self)
        if champions and champions[-1].manifest == manifest:
            self.report(f"model {self.version} is the champion already", version=self.version, replaced=None)
            return DONE
        announce(self, store, manifest, "promote")
        replaced = champions[-1].manifest.version if champions else None
        line = f"model {self.version} is the champion now{_after(replaced)}"
        self.report(line, version=self.version, replaced=replaced)
        return DONE


class Rollback(Report):
    """Make the champion before the present one the champion again."""

    def run(self) -> int:
        """Choose the model, check it and announce it; one that is damaged is passed over.

        Raises:
            Refused: no model was announced, or none before the present one can be served.
            KafkaException: the broker does not answer.
        """
        logs.configure(self.log_level)
        store = ArtefactStore(self.artefact_store)
        store.require()
        contents = store.contents()
        require_topic(self)
        champions = timeline(contents.announcements, on_topic := announced(self))
        if not champions:
            raise Refused(f"topic {self.models} has no champion to roll back from")
        present = champions[-1].version
        stored = {one.manifest.version: one.manifest for one in on_topic}
        stored |= {manifest.version: manifest for manifest in contents.manifests}
        for version, why in predecessors(champions, contents.manifests):
            if version not in stored:
                _log.warning("passed over: its manifest is gone", version=version)
            elif problem := problem_of(store, stored[version]):
                _log.warning("passed over", version=version, problem=problem)
            else:
                announce(self, store, stored[version], "rollback")
                self.report(
                    f"model {version} is the champion now{_after(present)}: {why}",
                    version=version,
                    replaced=present,
                    chosen=why,
                )
                return DONE
        raise Refused(f"there is no model before {present} that can be served; see python -m training history")


def find(contents: Contents, version: int, where: str) -> Manifest:
    """The manifest of this version.

    Raises:
        Refused: the store does not have it, or it is broken.
    """
    for manifest in contents.manifests:
        if manifest.version == version:
            return manifest
    for name, problem in contents.broken.items():
        if name.startswith(f"{version}/"):
            raise Refused(f"model {version} is broken: {problem}")
    known = [str(manifest.version) for manifest in contents.manifests]
    listed = ", ".join((["…"] if len(known) > _NAMED else []) + known[-_NAMED:]) or "none"
    raise Refused(f"no model {version} in {where}, there are: {listed}")


def problem_of(store: ArtefactStore, manifest: Manifest) -> str | None:
    """Why a worker would refuse this model; None if it would not."""
    try:
        prove(store, manifest)
    except (Malformed, OSError) as error:
        return f"model {manifest.version} cannot be served: {' '.join(str(error).split())}"
    return None


def predecessors(champions: Sequence[Announcement], manifests: Sequence[Manifest]) -> list[tuple[int, str]]:
    """Versions to go back to from the present champion, best first, each with the reason.

    A roll back takes back what was announced last, so a second one goes on to the champion before that, and not to the
    one that the first took out of service. Behind the champions come the models that the gate let pass, newest first.
    """
    reign: list[int] = []
    for champion in champions:
        if champion.by == "rollback":
            while reign and reign[-1] != champion.version:
                reign.pop()
        if not reign or reign[-1] != champion.version:
            reign.append(champion.version)
    present = reign[-1]
    earlier = dict.fromkeys(version for version in reign[::-1] if version != present)
    accepted = [
        manifest.version
        for manifest in sorted(manifests, key=lambda manifest: -manifest.version)
        if manifest.version < present and manifest.version not in earlier
        if manifest.gate is None or manifest.gate.verdict != "rejected"
    ]
    return [(version, "it was the champion before") for version in earlier] + [
        (version, "no earlier champion is known, it is the newest accepted model before") for version in accepted
    ]


def _figures(gate: Gate) -> str:
    if gate.high is None or gate.high >= 0:
        return gate.reason
    return f"NDCG@10 {gate.difference:+.4f} [{gate.low:+.4f}, {gate.high:+.4f}] against model {gate.champion}"


def _after(replaced: int | None) -> str:
    return "" if replaced is None else f", after {replaced}"
