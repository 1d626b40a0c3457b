"""Bad models, an artefact store that is away, and garbage on the topic of items, all before one running worker."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from ops.kafka import free_port
from schemas import recommendation
from schemas.artefact import CATALOGUE, ITEMS, PROBES, STEP, Manifest, decode_probes, encode_manifest, encode_probes
from schemas.artefact_store import ArtefactStore, described
from schemas.item import Item, encode
from schemas.settings import Settings
from tests.faults.world import World
from tests.kafka.balance import is_caught_up, read_topic
from tests.kafka.stream import ITEMS as ITEM_IDS
from tests.kafka.stream import announce, send, send_events
from tests.kafka.worker_process import WorkerProcess, wait_until
from tests.stream_app.tiny_model import TinyModel

REFUSED = "model refused, the one in service goes on"
SERVES = "model in service"


class Workshop:
    """Makes models, good and bad, and a worker under which they are announced."""

    def __init__(self, world: World, worker: WorkerProcess, web_port: int) -> None:
        self.world = world
        self.worker = worker
        self.artefacts = world.directory / "artefacts"
        self._web_port = web_port

    def store(self, model: TinyModel, changed: Mapping[str, bytes] | None = None) -> Manifest:
        """Write an artefact whose manifest fits its files, some of them other than the model's."""
        manifest, files = model.artefact()
        files |= changed or {}
        manifest = manifest.model_copy(update={"files": described(files)})
        ArtefactStore(str(self.artefacts)).write(files, manifest)
        return manifest

    def announce(self, manifest: Manifest) -> None:
        """Make it the champion."""
        announce(self.world.settings, encode_manifest(manifest))

    def is_refused(self, announcement: bytes) -> str:
        """Announce it, and return why the worker refuses it."""
        before = len(self.worker.logged(REFUSED))
        announce(self.world.settings, announcement)
        return str(self.worker.wait_for(REFUSED, times=before + 1)["error"])

    def serves(self) -> None:
        """Some events go through, on whichever model."""
        send_events(self.world.settings, 20)
        wait_until(lambda: is_caught_up(self.world.settings), "everything committed")

    def metric(self, name: str) -> float:
        """A metric of the worker."""
        with urlopen(f"http://127.0.0.1:{self._web_port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        [value] = [line.split()[1] for line in lines if line.startswith(f"recommender_{name} ")]
        return float(value)


@pytest.fixture
def workshop(settings: Settings, tmp_path: Path) -> Iterator[Workshop]:
    world, web_port = World(settings, tmp_path), free_port()
    with world.working(web_port=web_port) as worker:
        yield Workshop(world, worker, web_port)


def wrong_probes(files: Mapping[str, bytes]) -> bytes:
    """Other answers than the model gives."""
    probes = decode_probes(files[PROBES])
    return encode_probes(replace(probes, query=probes.query + np.float32(0.1)))


def test_bad_models_are_refused_one_by_one_while_the_good_one_serves(workshop: Workshop) -> None:
    good, files = TinyModel(10, ITEM_IDS).artefact()
    plain = json.loads(encode_manifest(good))
    assert "manifest" in workshop.is_refused(b"no manifest")
    assert "format" in workshop.is_refused(json.dumps({**plain, "format": 99}).encode())
    damaged = {STEP: b"not ONNX at all", PROBES: wrong_probes(files), CATALOGUE: b"{}", ITEMS: b"\xc1"}
    for version, (name, content) in enumerate(damaged.items(), start=11):
        manifest = workshop.store(TinyModel(version, ITEM_IDS), {name: content})
        assert name.partition(".")[0] in workshop.is_refused(encode_manifest(manifest))
    for version, other in enumerate([{"width": 8}, {"state": 12}, {"items": 7}], start=21):
        manifest = workshop.store(TinyModel(version, ITEM_IDS)).model_copy(update=other)
        assert "must" in workshop.is_refused(encode_manifest(manifest))
    for version, kept in ((31, slice(None, -9)), (32, slice(9, None))):
        manifest = workshop.store(TinyModel(version, ITEM_IDS))
        path = workshop.artefacts / manifest.path / CATALOGUE
        path.write_bytes(path.read_bytes()[kept])
        assert "SHA-256" in workshop.is_refused(encode_manifest(manifest))
    workshop.serves()
    assert workshop.metric("refused_models_total") == 11
    assert workshop.metric("model_version") == 1
    assert workshop.worker.stop() == 0
    assert workshop.world.audit().clean


def test_a_model_waits_for_a_store_that_is_away_and_may_have_another_shape(workshop: Workshop) -> None:
    worker = workshop.worker
    manifest = workshop.store(TinyModel(2, ITEM_IDS, width=7))
    away = workshop.artefacts.rename(workshop.world.directory / "away")
    workshop.announce(manifest)
    worker.wait_for("a model cannot be read", times=2)
    workshop.serves()
    assert workshop.metric("unread_models_total") >= 2
    assert workshop.metric("model_version") == 1
    away.rename(workshop.artefacts)
    assert worker.wait_for(SERVES, times=2)["model"] == 2
    workshop.serves()
    assert workshop.metric("refused_models_total") == 0
    lists = read_topic(workshop.world.settings, workshop.world.settings.recommendations)
    assert {recommendation.decode(message.value()).model for message in lists} == {1, 2}

    garbage = [("i1", b"\xc1"), ("", b"{}"), ("i2", json.dumps({"available": "perhaps"}).encode())]
    send(workshop.world.settings, workshop.world.settings.items, *garbage, ("i3", encode(Item(available=False))))
    worker.wait_for("item record refused", times=len(garbage))
    assert worker.wait_for("items unavailable")["count"] == 1
    workshop.serves()
    assert worker.stop() == 0
    assert workshop.world.audit().clean
