"""The model that serves: what the last record of the topic `models` says, as soon as it is here and proved.

Any version may follow any other: a rollback announces an older one. What cannot be served is refused, logged and
counted, and the model in service goes on. Files that cannot be read are asked for again, until another model is
announced: the store may not answer now, or its mount may be away. Files that are missing for a minute count as refused,
and are looked for all the same.

At the start the records of the topic are tried newest first, so a worker that starts under a bad champion serves the
one before it, if the topic still holds that record. While none serves and one may yet, the first round waits: what it
applied without a model would never get a list. For missing files it waits a minute. If no announced model can be
served, histories are kept and no lists are sent.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog
from confluent_kafka import Message

from schemas.artefact import CHAMPION, Manifest, decode_manifest
from schemas.artefact_store import ArtefactStore
from schemas.malformed import Malformed
from stream_app.loading import load_model
from stream_app.model import Model

_FIRST_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0
_MISSING_S: Final = 60.0
"""how long a file may be missing before its model counts as refused, and a start waits for it no more"""

_log = structlog.get_logger()


class Champion:
    """Follows the topic `models`.

    Args:
        store: holds the artefacts.
        swap: puts a model in service.
        clock: seconds that only grow.

    Attributes:
        refused: announcements that could not be served.
        unread: attempts to read a model's files that failed and will be repeated.
    """

    def __init__(
        self, store: ArtefactStore, swap: Callable[[Model], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.refused = 0
        self.unread = 0
        self._store = store
        self._swap = swap
        self._clock = clock
        self._serving: Manifest | None = None
        self._wanted: list[Manifest] = []  # newest first; only the newest once a model serves
        self._pauses = _pauses()
        self._retry_at = 0.0
        self._missing_until = 0.0
        self._given_up: set[int] = set()

    @property
    def ready(self) -> bool:
        """Whether a model serves, or none that was announced can be, as it seems."""
        return self._serving is not None or all(manifest.version in self._given_up for manifest in self._wanted)

    def catch_up(self, messages: Sequence[Message]) -> None:
        """Serve the newest announced model that can be served."""
        self._want(self._announced(messages)[::-1])
        self._try_wanted()

    def follow(self, messages: Sequence[Message]) -> None:
        """Serve a newly announced model; of several only the last one counts."""
        if announced := self._announced(messages):
            self._want(announced[-1:] if self._serving else [announced[-1], *self._wanted])
        if self._wanted and self._clock() >= self._retry_at:
            self._try_wanted()

    def _want(self, manifests: list[Manifest]) -> None:
        self._wanted = manifests
        self._given_up = set()
        self._missing_until = self._clock() + _MISSING_S
        self._pauses, self._retry_at = _pauses(), 0.0

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

    def _try_wanted(self) -> None:
        unread: list[Manifest] = []
        for manifest in self._wanted:
            if not self._try(manifest):
                unread.append(manifest)
            if self._serving is not None:
                break
        self._wanted = unread[:1] if self._serving else unread
        if self._wanted:
            pause_s = next(self._pauses)
            self._retry_at = self._clock() + pause_s
            _log.warning("the artefact store is asked again", models=[m.version for m in self._wanted], retry_s=pause_s)
        if self._serving is None and self.ready:
            _log.warning("no model to serve: histories are kept, no lists are sent")

    def _try(self, manifest: Manifest) -> bool:
        """Serve or refuse a model: False when its files cannot be read now, but may be later."""
        if manifest == self._serving:
            return True
        started = self._clock()
        try:
            files = self._store.read(manifest)
        except Malformed as error:
            self._refuse(manifest.version, error)
            return True
        except Exception as error:  # the file systems' packages raise exceptions of their own
            self.unread += 1
            late = isinstance(error, FileNotFoundError) and self._clock() >= self._missing_until
            if late and manifest.version not in self._given_up:
                self._given_up.add(manifest.version)
                self._refuse(manifest.version, error)
            _log.warning("a model cannot be read", model=manifest.version, error=str(error) or repr(error))
            return False
        try:
            model = load_model(manifest, files)
        except Malformed as error:
            self._refuse(manifest.version, error)
            return True
        self._swap(model)
        self._serving = manifest
        _log.info("model in service", model=manifest.version, seconds=round(self._clock() - started, 2))
        return True

    def _refuse(self, model: int | str, error: Exception) -> None:
        self.refused += 1
        _log.error("model refused, the one in service goes on", model=model, error=str(error))


def _pauses() -> Iterator[float]:
    pause_s = _FIRST_RETRY_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_RETRY_S)
