from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.artefact import CATALOGUE, CHUNK, PROBES, STEP, decode_probes, encode_probes
from schemas.artefact_store import ArtefactStore
from schemas.malformed import Malformed
from training.model.lrurec import LRURec, Shape
from training.release.artefact import Artefact, build
from training.release.probes import prove, run_probes


def new_artefact(seed: int) -> Artefact:
    torch.manual_seed(seed)
    return build(LRURec(Shape(12, width=16, units=8)), [f"item {row}" for row in range(12)], version_ms=1)


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    return new_artefact(0)


def test_an_artefact_proves_itself_out_of_the_store(artefact: Artefact, tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path))
    artefact.write(store)
    prove(store, artefact.manifest)


def test_a_file_that_the_store_changed_is_found(artefact: Artefact, tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path))
    artefact.write(store)
    path = tmp_path / artefact.manifest.path / CATALOGUE
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    with pytest.raises(Malformed, match=CATALOGUE):
        prove(store, artefact.manifest)


@pytest.mark.parametrize("file", [STEP, CHUNK, CATALOGUE])
def test_files_of_another_model_fail_the_probes(artefact: Artefact, file: str) -> None:
    with pytest.raises(Malformed, match=PROBES):
        run_probes(artefact.manifest, artefact.files | {file: new_artefact(1).files[file]})


@pytest.mark.parametrize("file", [STEP, CHUNK])
def test_a_graph_that_cannot_be_loaded_is_malformed(artefact: Artefact, file: str) -> None:
    with pytest.raises(Malformed, match=file):
        run_probes(artefact.manifest, artefact.files | {file: b"graph"})


def test_a_chunk_that_a_worker_would_refuse_is_malformed(artefact: Artefact) -> None:
    with pytest.raises(Malformed, match="no fixed number of steps"):
        run_probes(artefact.manifest, artefact.files | {CHUNK: artefact.files[STEP]})


def test_probes_that_are_too_short_for_a_chunk_are_malformed(artefact: Artefact) -> None:
    probes = decode_probes(artefact.files[PROBES])
    short = encode_probes(type(probes)(probes.rows[:2, :20].copy(), probes.query[:2], probes.top[:2]))
    with pytest.raises(Malformed, match="no history fills a chunk of 32 steps, the longest has 12 items"):
        run_probes(artefact.manifest, artefact.files | {PROBES: short})


def test_an_artefact_without_a_chunk_is_proved_by_its_steps(artefact: Artefact) -> None:
    run_probes(artefact.manifest, {name: content for name, content in artefact.files.items() if name != CHUNK})


def test_other_best_items_than_at_the_export_are_malformed(artefact: Artefact) -> None:
    probes = decode_probes(artefact.files[PROBES])
    turned = encode_probes(type(probes)(probes.rows, probes.query, np.ascontiguousarray(probes.top[:, ::-1])))
    with pytest.raises(Malformed, match="best items"):
        run_probes(artefact.manifest, artefact.files | {PROBES: turned})


def test_another_query_than_at_the_export_is_malformed(artefact: Artefact) -> None:
    probes = decode_probes(artefact.files[PROBES])
    moved = encode_probes(type(probes)(probes.rows, probes.query + np.float32(0.001), probes.top))
    with pytest.raises(Malformed, match="export's queries"):
        run_probes(artefact.manifest, artefact.files | {PROBES: moved})


def test_rows_beyond_the_catalogue_are_malformed(artefact: Artefact) -> None:
    probes = decode_probes(artefact.files[PROBES])
    beyond = encode_probes(type(probes)(probes.rows + np.int32(12), probes.query, probes.top))
    with pytest.raises(Malformed, match="rows below 12"):
        run_probes(artefact.manifest, artefact.files | {PROBES: beyond})
