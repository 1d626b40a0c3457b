import math
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.artefact import CATALOGUE, ITEMS, MANIFEST, PROBES, STEP, decode_catalogue, decode_manifest, decode_probes
from schemas.artefact_store import ArtefactStore
from schemas.malformed import Malformed
from stream_app.loading import load_model
from training.model.lrurec import LRURec, Shape
from training.model.step_graph import GraphMismatch
from training.release.artefact import Artefact, NotFinite, build, load
from training.release.probes import PROBE_COUNT, PROBE_LENGTH, load_graph

ITEM_IDS = [f"item {row}" for row in range(12)]


def new_model(items: int = len(ITEM_IDS)) -> LRURec:
    torch.manual_seed(0)
    return LRURec(Shape(items, width=16, units=8))


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    return build(new_model(), ITEM_IDS, offsets={"0": 7}, parameters={"epochs": 3}, metrics={"recall_at_10": 0.5})


def test_an_artefact_is_read_back_whole(artefact: Artefact, tmp_path: Path) -> None:
    store, model = ArtefactStore(str(tmp_path)), new_model()
    artefact.write(store)
    manifest = decode_manifest((tmp_path / artefact.manifest.path / MANIFEST).read_bytes())
    assert manifest == artefact.manifest
    files = store.read(manifest)
    catalogue = decode_catalogue(files[CATALOGUE], files[ITEMS])
    assert list(catalogue.item_ids) == ITEM_IDS
    np.testing.assert_array_equal(catalogue.embedding, model.embedding.weight.detach().numpy())
    np.testing.assert_array_equal(catalogue.bias, model.bias.detach().numpy())


def test_the_manifest_says_what_the_model_is_and_where_it_comes_from(artefact: Artefact) -> None:
    manifest = artefact.manifest
    assert (manifest.items, manifest.width, manifest.state) == (12, 16, 32)
    assert (manifest.offsets, manifest.parameters, manifest.metrics) == (
        {"0": 7},
        {"items": 12, "width": 16, "units": 8, "blocks": 2, "epochs": 3},
        {"recall_at_10": 0.5},
    )
    assert manifest.libraries["torch"] == torch.__version__.partition("+")[0]


def test_an_artefact_gives_back_the_model_that_it_was_built_from(artefact: Artefact) -> None:
    loaded, model = load(artefact.manifest, artefact.files), new_model()
    for (name, expected), (same, found) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == same
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_probes_hold_what_the_step_gives_from_the_zero_state(artefact: Artefact) -> None:
    session = load_graph(artefact.files[STEP])
    catalogue = decode_catalogue(artefact.files[CATALOGUE], artefact.files[ITEMS])
    probes = decode_probes(artefact.files[PROBES])
    assert probes.rows.shape == (PROBE_COUNT, PROBE_LENGTH)
    for rows, query, top in zip(probes.rows, probes.query, probes.top, strict=True):
        state = np.zeros((1, 32), dtype=np.float32)
        for row in rows[rows >= 0]:
            state, stepped = session.run(None, {"state": state, "x": catalogue.embedding[[row]]})
        np.testing.assert_allclose(stepped[0], query, atol=1e-6)
        scores = catalogue.embedding @ query + catalogue.bias
        assert set(top) == set(np.argsort(-scores)[:10])


def test_a_worker_accepts_the_artefact(artefact: Artefact) -> None:
    assert load_model(artefact.manifest, artefact.files).version == artefact.manifest.version


def test_weights_that_are_not_finite_are_refused() -> None:
    model = new_model()
    with torch.no_grad():
        model.bias[3] = math.inf
    with pytest.raises(NotFinite, match="bias"):
        build(model, ITEM_IDS)


def test_a_graph_that_differs_from_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.model.step_graph.TOLERANCE", -1.0)
    with pytest.raises(GraphMismatch):
        build(new_model(), ITEM_IDS)


def test_a_store_that_fails_half_way_keeps_nothing(
    artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtefactStore(str(tmp_path))
    write = store._fs.pipe_file

    def full_disk(path: str, content: bytes) -> None:
        if path.endswith(MANIFEST):
            raise OSError("no space left")
        write(path, content)

    monkeypatch.setattr(store._fs, "pipe_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        artefact.write(store)
    assert not list(tmp_path.iterdir())


def test_item_ids_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(Malformed):
        build(new_model(), ITEM_IDS[:-1])


def test_a_catalogue_of_fewer_than_ten_items_has_shorter_probes() -> None:
    artefact = build(new_model(items=3), ["a", "b", "c"])
    assert decode_probes(artefact.files[PROBES]).top.shape == (PROBE_COUNT, 3)


def test_an_artefact_goes_to_any_fsspec_url(artefact: Artefact) -> None:
    store = ArtefactStore("memory://models")
    artefact.write(store)
    assert store.manifests() == [artefact.manifest]
    assert store.read(artefact.manifest) == artefact.files
