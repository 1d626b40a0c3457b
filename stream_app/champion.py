"""The model that serves: what the last record of the topic `models` says, as soon as it is here and proved.

Any version may follow any other: a rollback announces an older one. What cannot be served is refused, logged and
counted, and the model in service goes on. Only a store that does not answer is asked again.

At the start the records of the topic are tried newest first, so a worker that starts under a bad champion serves the
one before it, if the topic still holds that record; else it keeps histories and sends no lists.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from confluent_kafka import Message

from schemas.artefact import CHAMPION, Manifest, decode_manifest
from schemas.artefact_store import ArtefactStore
from schemas.malformed import Malformed
from stream_app.model import Model, load_model

_FIRST_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0

_log = structlog.get_logger()


class Champion:
    """Follows the topic `models`.

    Args:
        store: holds the artefacts.
        swap: puts a model in service.
        clock: seconds that only grow.

    Attributes:
        refused: announcements that could not be served.
    """

    def __init__(
        self, store: ArtefactStore, swap: Callable[[Model], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.refused = 0
        self._store = store
        self._swap = swap
        self._clock = clock
        self._serving: Manifest | None = None
        self._wanted: Manifest | None = None
        self._retry_s = _FIRST_RETRY_S
        self._retry_at = 0.0

    def catch_up(self, messages: Sequence[Message]) -> None:
        """Serve the newest announced model that can be served."""
        for manifest in reversed(self._announced(messages)):
            if self._serving is None:
                self._try(manifest)
        if self._serving is None:
            _log.warning("no model to serve: histories are kept, no lists are sent")

    def follow(self, messages: Sequence[Message]) -> None:
        """Serve a newly announced model; of several only the last one counts."""
        if announced := self._announced(messages):
            self._wanted, self._retry_s, self._retry_at = None, _FIRST_RETRY_S, 0.0
            self._try(announced[-1])
        elif self._wanted is not None and self._clock() >= self._retry_at:
            self._try(self._wanted)

    def _announced(self, messages: Sequence[Message]) -> list[Manifest]:
        manifests = []
        for message in messages:
            value = message.value()
            if message.key() != CHAMPION.encode():
                continue
            if value is None:
                _log.warning("the champion was withdrawn, the model in service goes on", offset=message.offset())
                continue
            try:
                manifests.append(decode_manifest(value))
            except Malformed as error:
                self._refuse(f"offset {message.offset()}", error)
        return manifests

    def _try(self, manifest: Manifest) -> None:
        if manifest == self._serving:
            return
        started = self._clock()
        try:
            model = load_model(manifest, self._store.read(manifest))
        except (Malformed, FileNotFoundError) as error:
            self._settled(manifest)
            self._refuse(manifest.version, error)
        except OSError as error:
            self._ask_again(manifest, error)
        else:
            self._settled(manifest)
            self._swap(model)
            self._serving = manifest
            _log.info("model in service", model=manifest.version, seconds=round(self._clock() - started, 2))

    def _refuse(self, model: int | str, error: Exception) -> None:
        self.refused += 1
        serving = self._serving.version if self._serving else None
        _log.error("model refused, the one in service goes on", model=model, serving=serving, error=str(error))

    def _settled(self, manifest: Manifest) -> None:
        if self._wanted == manifest:
            self._wanted = None

    def _ask_again(self, manifest: Manifest, error: Exception) -> None:
        if self._wanted is None:  # at the start older ones are tried after the newest, which is the one that counts
            self._wanted = manifest
        _log.warning(
            "the artefact store does not answer", model=manifest.version, error=str(error), retry_s=self._retry_s
        )
        self._retry_at = self._clock() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _LONGEST_RETRY_S)
