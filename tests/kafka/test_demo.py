"""The whole loop, as a user starts it: what it says is true of what it leaves in Kafka."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ops.audit import read_lists, read_states, read_users
from ops.kafka import LocalKafka
from schemas.artefact_store import ArtefactStore
from schemas.item import item_hash
from schemas.settings import Settings
from schemas.state import StateRecord, kept_length
from tests.kafka.worker_process import wait_until
from training.model.lrurec import LRURec
from training.release.artefact import load

WINDOW = 100
SAMPLED = 200


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "ops", "demo", "--rate", "1000", "--epochs", "2", "--directory", str(directory)]
    run = subprocess.run([*command, "--summary", str(directory / "summary.json")], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return directory


@pytest.fixture(scope="module")
def settings(demo: Path) -> Iterator[Settings]:
    with LocalKafka(demo / "kafka") as kafka:
        yield Settings(broker=kafka.bootstrap, app="demo", partitions=4, artefact_store=str(demo / "artefacts"))


@pytest.mark.timeout(400)
def test_the_demo_loses_nothing_swaps_quickly_and_beats_most_popular(demo: Path) -> None:
    summary: dict[str, Any] = json.loads((demo / "summary.json").read_text())
    assert (summary["lost"], summary["applied_twice"], summary["uncovered"]) == (0, 0, 0)
    assert summary["events"] == 20_000
    assert summary["lists"] >= summary["events"]
    assert summary["swaps"] == 1
    assert summary["swap_to_first_list_s"] < 2
    assert summary["hit_rate_10"] > summary["popular_hit_rate_10"] > 0


@pytest.mark.timeout(400)
def test_the_states_and_lists_of_200_users_are_those_of_the_plain_torch_loop(settings: Settings) -> None:
    store = ArtefactStore(settings.artefact_store)
    models = {m.version: (load(m, files := store.read(m)), _row_of(files)) for m in store.manifests()}
    users, records, lists = read_users(settings), read_states(settings), read_lists(settings)
    assert len(models) == 2
    live = sorted(key for key, record in records.items() if record.model_version)
    for key in np.random.default_rng(0).choice(live, SAMPLED, replace=False).tolist():
        record, items = records[key], users[key].items
        model, row_of = models[record.model_version]
        kept = items[len(items) - kept_length(len(items), WINDOW) :]
        rows = [row_of[item] for item in kept if item in row_of]
        _same_state(model, rows, record)
        found = lists[key]
        assert (found.offset, found.model) == (record.last_offset, record.model_version)
        _same_top_ten(model, rows, np.frombuffer(record.query, "<f4"), found.items, row_of)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("step", ["import", "live"])
def test_ctrl_c_ends_everything_at_once(step: str, tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    command = [sys.executable, "-m", "ops", "demo", "--rate", "2000", "--epochs", "1", "--directory", str(directory)]
    # in the live step while it retrains: that leaves a log
    sign = (directory / "retraining.log").exists if step == "live" else lambda: "✓ workers" in said.read_text()
    said = tmp_path / "said"
    with said.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as demo:
        wait_until(lambda: sign() or demo.poll() is not None, step, 200)
        if step == "live":
            address = said.read_text().partition("Watch it at ")[2].split()[0]
            with urlopen(address, timeout=30) as page:
                assert b"<title>" in page.read()
        began = time.monotonic()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130, said.read_text()
        assert time.monotonic() - began < 8
    assert [line for line in said.read_text().splitlines() if line][-1] == "interrupted"
    assert "Traceback" not in said.read_text()
    assert _processes_of(directory) == []


def _processes_of(directory: Path) -> list[str]:
    """Command lines of the processes that know a directory by an argument or by their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if str(directory).encode() in command + (process / "environ").read_bytes():
                found.append(command.decode())
    return found


def _row_of(files: dict[str, bytes]) -> dict[int, int]:
    from schemas.artefact import CATALOGUE, ITEMS, decode_catalogue

    item_ids = decode_catalogue(files[CATALOGUE], files[ITEMS]).item_ids
    return {item_hash(item_id): row for row, item_id in enumerate(item_ids)}


def _complex(state: NDArray[np.float32], model: LRURec) -> NDArray[np.complex64]:
    real, imag = state.reshape(model.shape.blocks, 2, model.shape.units).swapaxes(0, 1)
    return real + 1j * imag


@torch.no_grad()
def _same_state(model: LRURec, rows: list[int], record: StateRecord) -> None:
    query, state = torch.zeros(1, model.shape.width), torch.zeros(1, model.shape.state)
    for row in rows:
        query, state = model(model.embedding.weight[[row]], state)
    # Of each complex number as a whole: it turns a little every step, and its rounding goes from one part to the other.
    # 1e-4 of it is float32 rounding over 150 steps; an event too many or too few is far more.
    folded, kept = _complex(state.numpy(), model), _complex(np.frombuffer(record.state, "<f4"), model)
    np.testing.assert_allclose(kept, folded, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(np.frombuffer(record.query, "<f4"), query[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def _same_top_ten(
    model: LRURec, rows: list[int], query: np.ndarray, found: list[tuple[str, float]], row_of: dict[int, int]
) -> None:
    scores = model.embedding.weight @ torch.from_numpy(query.copy()) + model.bias
    scores[rows] = -torch.inf
    best = torch.topk(scores, 10)
    # two items whose scores differ by less than the arithmetic may change places
    np.testing.assert_allclose([score for _, score in found], best.values, atol=1e-4)
    listed = [row_of[item_hash(item_id)] for item_id, _ in found]
    np.testing.assert_allclose(scores[listed], best.values, atol=1e-4)
