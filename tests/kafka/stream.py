"""A steady stream of events, and models to serve them with."""

import threading
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import Producer

from schemas import event
from schemas.artefact import CHAMPION, Manifest, encode_manifest
from schemas.artefact_store import ArtefactStore
from schemas.event import Event
from schemas.kafka import producer_config
from schemas.settings import Settings
from tests.stream_app.tiny_model import TinyModel

ITEMS = [f"i{number}" for number in range(300)]
USERS = 200

_numbers = count()  # of all events, so that no event id comes twice


def publish_model(settings: Settings, directory: Path, version: int) -> Manifest:
    """Store a model and make it the champion."""
    manifest, files = TinyModel(version, ITEMS).artefact()
    ArtefactStore(str(directory / "artefacts")).write(files, manifest)
    announce(settings, encode_manifest(manifest))
    return manifest


def announce(settings: Settings, manifest: bytes | None) -> None:
    """Put a record for the champion on the topic `models`."""
    send(settings, settings.models, (CHAMPION, manifest))


def send(settings: Settings, topic: str, *records: tuple[str, bytes | None]) -> None:
    """Send and wait for the acknowledgements."""
    producer = Producer(producer_config(settings))
    failed: list[object] = []
    for key, value in records:
        producer.produce(topic, key=key, value=value, on_delivery=lambda error, _: failed.append(error))
    assert producer.flush(60) == 0
    assert not any(failed)


def send_events(settings: Settings, number: int) -> None:
    """Send `number` events of several users at once."""
    send(settings, settings.interactions, *(_event(next(_numbers)) for _ in range(number)))


class Stream:
    """Sends events all the time from entering the context to leaving it; what was sent is acknowledged then."""

    def __init__(self, settings: Settings, events_per_s: float = 1000.0) -> None:
        self._settings = settings
        self._pause_s = 10 / events_per_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._failed: list[object] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        assert not self._failed

    def _send(self) -> None:
        producer = Producer(producer_config(self._settings))
        for number in _numbers:
            key, value = _event(number)
            producer.produce(
                self._settings.interactions,
                key=key,
                value=value,
                on_delivery=lambda error, _: self._failed.append(error) if error else None,
            )
            producer.poll(0)
            if number % 10 == 0 and self._stopping.wait(self._pause_s):
                break
        if producer.flush(60):
            self._failed.append("not all delivered")


def _event(number: int) -> tuple[str, bytes]:
    # users and items advance at coprime strides: every user meets many items, and most rounds have a user twice
    user_id = f"u{number * 7 % USERS if number % 3 else number % 11}"
    item_id = ITEMS[number * 13 % len(ITEMS)]
    return user_id, event.encode(Event(user_id, item_id, int(time.time() * 1000), event_id=f"e{number}"))
