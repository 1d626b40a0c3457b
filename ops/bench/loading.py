"""Loading a model beside one that serves: what it holds up, and what both keep in memory.

It runs in a process of its own beside a thread that steps the serving model all the time, as rounds do. What that
thread waited for is told apart from other work on the machine: a wait counts at most as long as the loading thread
computed meanwhile.
"""

import multiprocessing
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np

from ops.bench.findings import Findings, table
from ops.bench.rig import keep_model
from schemas.artefact import Manifest
from schemas.artefact_store import ArtefactStore
from schemas.settings import Settings
from stream_app.loading import load_model
from stream_app.model import Model
from stream_app.worker import tune_interpreter

_TICK_S: Final = 0.001
_STATUS: Final = Path("/proc/self/status")


class Loading(NamedTuple):
    """One model, loaded twice."""

    items: int
    cpu_s: float
    longest_wait_ms: float
    """of the thread beside it"""
    one_mib: int
    """what the first model added to the memory of the process"""
    most_mib: int
    """at most, while the second one was loaded beside it, files included"""
    two_mib: int
    release_ms: float
    """to free the first one"""


def bench(items: Sequence[int]) -> Findings:
    """Load models of so many items each; Linux only."""
    found = [measure(one) for one in items]
    rows = [["items", "s of CPU", "longest wait, ms", "one, MiB", "at most, MiB", "two, MiB", "to free one, ms"]]
    for one in found:
        memory = (f"{mib:,}" for mib in (one.one_mib, one.most_mib, one.two_mib))
        rows.append(
            [f"{one.items:,}", f"{one.cpu_s:.2f}", f"{one.longest_wait_ms:.1f}", *memory, f"{one.release_ms:.1f}"]
        )
    return Findings(table(rows), {"loadings": [one._asdict() for one in found]}, {})


def measure(items: int) -> Loading:
    """Make a model, load it, and load it again beside the first one."""
    spawn = multiprocessing.get_context("spawn")
    with TemporaryDirectory(prefix="recommender-bench-") as name:
        settings = Settings.model_construct(artefact_store=name)
        with ProcessPoolExecutor(1, spawn) as pool:  # PyTorch's memory goes with it
            manifest = pool.submit(keep_model, settings, items).result()
        with ProcessPoolExecutor(1, spawn) as pool:
            return pool.submit(_load, settings, manifest).result()


def _load(settings: Settings, manifest: Manifest) -> Loading:
    tune_interpreter()
    store = ArtefactStore(settings.artefact_store)
    before = _mib("VmRSS")
    serving = load_model(manifest, store.read(manifest))
    one = _mib("VmRSS") - before
    with _Rounds(serving) as rounds:
        cpu = time.thread_time()
        new = load_model(manifest, store.read(manifest))
        cpu_s = time.thread_time() - cpu
    two = _mib("VmRSS") - before
    rounds.model = new
    began = time.thread_time()
    del serving
    release_s = time.thread_time() - began
    most = _mib("VmHWM") - before
    return Loading(manifest.items, cpu_s, 1000 * rounds.longest_wait_s, one, most, two, 1000 * release_s)


class _Rounds:
    """A thread that steps a model all the time, and how long it had to wait for the thread that made it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.longest_wait_s = 0.0
        self._loader = time.pthread_getcpuclockid(threading.get_ident())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        states, rows = np.zeros((8, self.model.state_floats), np.float32), np.arange(8, dtype=np.int32)
        while not self._stopping.is_set():
            began, computed = time.perf_counter(), time.clock_gettime(self._loader)
            self._stopping.wait(_TICK_S)
            self.model.advance(states, rows[:, None])
            waited = min(time.perf_counter() - began - _TICK_S, time.clock_gettime(self._loader) - computed)
            self.longest_wait_s = max(self.longest_wait_s, waited)


def _mib(field: str) -> int:
    """Of this process, by its name in Linux."""
    [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) // 1024
