"""What an event costs whose user has many behind them, beside a SASRec that reads its window again.

The engine runs here, without Faust, on a real Kafka and RocksDB: CPU time is that of this process, so of the model, the
states and the client, and not of the broker. Users of all lengths take turns, and their histories are out of step as in
life, so that in each pass one of fifty is cut and folded again.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ops.bench.chart import chart
from ops.bench.findings import Findings, table
from ops.bench.rig import CATALOGUE, HISTORY_LENGTH, Rig, keep_model, running
from schemas.artefact_store import ArtefactStore
from schemas.event import Event, encode
from schemas.placement import partition_of
from stream_app.broker import Record
from stream_app.engine import Engine, store_directory
from stream_app.kafka_broker import KafkaBroker
from stream_app.loading import load_model
from stream_app.model import Model
from stream_app.settings import WorkerSettings
from stream_app.store import Store

BEHIND: Final = (10, 200, 1_000, 10_000)
WINDOWS: Final = (50, 200, 1_000)
FULL: Final = 200
"""events from which a history has all its length"""
CYCLE: Final = HISTORY_LENGTH // 2
"""a full history is cut every so many events, and folded again from its last `HISTORY_LENGTH`"""
STEPS: Final = (CYCLE - 1 + HISTORY_LENGTH) / CYCLE
"""of the model per event of a full history"""
_LIVE: Final = 10
"""events in a small round"""
_PASSES: Final = 4
"""events of each user in a run"""
_CHUNK: Final = 100
"""events of a user that a round of the preparation takes"""
_TOGETHER: Final = 16
"""users that the models are timed with side by side"""
_REPEATS: Final = 20


class Cost(NamedTuple):
    """What an event costs, in µs."""

    cpu_us: float
    wall_us: float


class Crowd:
    """Users of one partition who all have about as many events behind them."""

    def __init__(self, behind: int, partition: int, partitions: int, users: int, name: str) -> None:
        self.behind = behind
        self.partition = partition
        names = (f"{name}-{number}" for number in range(100 * partitions * users))
        self.users = list(islice((one for one in names if partition_of(one.encode(), partitions) == partition), users))
        self._random = np.random.default_rng(partition)

    def events_before(self) -> Iterator[tuple[str, int]]:
        """Each user with the events that they have before the bench; only full histories are out of step."""
        for number, user in enumerate(self.users):
            yield user, self.behind + (number % CYCLE if self.behind >= FULL else 0)

    def values(self, user: str, events: int) -> list[bytes]:
        """So many new events of a user."""
        items = self._random.integers(0, CATALOGUE, events).tolist()
        return [encode(Event(user, f"item-{item}", 1_700_000_000_000)) for item in items]


class Feed:
    """Hands an engine rounds of one partition, each record at the next offset."""

    def __init__(self, engine: Engine, partition: int) -> None:
        self._engine = engine
        self._partition = partition
        self._next = engine.input_positions[partition]

    def process(self, values: Sequence[tuple[str, bytes]]) -> Cost:
        """One round; what each of its events cost."""
        records = [
            Record(offset, user.encode(), value, 1_700_000_000_000)
            for offset, (user, value) in enumerate(values, self._next)
        ]
        self._next += len(records)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        self._engine.process({self._partition: records})
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - began_s
        return Cost(1e6 * cpu_s / len(values), 1e6 * wall_s / len(values))


class History(NamedTuple):
    """Medians over the runs, by the events that users have behind them."""

    small: dict[int, Cost]
    large: dict[int, Cost]
    state_bytes: dict[int, int]
    """of a record, on average"""


class Models(NamedTuple):
    """CPU time of the models alone in µs, of one user and of one of several side by side."""

    step: tuple[float, float]
    """of LRURec"""
    windows: dict[int, tuple[float, float]]
    """of SASRec, by the window's length"""

    def ratios(self, length: int) -> tuple[float, float]:
        """How much more a window costs than the steps that an event takes of a full history."""
        (alone, together), (step_alone, step_together) = self.windows[length], self.step
        return alone / (STEPS * step_alone), together / (STEPS * step_together)


def bench(behind: Sequence[int], users: int, runs: int, plot: Path | None) -> Findings:
    """Measure both and compare them; write a chart to `plot`."""
    history, models = measure(behind, users, runs), time_models(runs)
    full = [length for length in behind if length >= FULL]
    flat = {
        name: min(costs[one].cpu_us for one in full) / max(costs[one].cpu_us for one in full)
        for name, costs in (("small", history.small), ("large", history.large))
    }
    rows = [["events behind", "us of CPU in small rounds", "in large ones", "us of time in small", "in large", "bytes"]]
    rows += [
        [
            f"{one:,}",
            *(f"{costs[one].cpu_us:.1f}" for costs in (history.small, history.large)),
            *(f"{costs[one].wall_us:.1f}" for costs in (history.small, history.large)),
            f"{history.state_bytes[one]:,}",
        ]
        for one in behind
    ]
    model_rows = [["model alone, us of CPU", "one user", f"of {_TOGETHER}", "ratio", "ratio"]]
    model_rows.append([f"LRURec, {STEPS:.2f} steps", *(f"{STEPS * step:.1f}" for step in models.step), "1", "1"])
    model_rows += [
        [f"SASRec, window of {length}", *(f"{one:.1f}" for one in costs), *(f"{r:.1f}" for r in models.ratios(length))]
        for length, costs in models.windows.items()
    ]
    if plot is not None:
        plot.write_text(_chart(history, models))
    within = " and ".join(f"{100 * (1 / ratio - 1):.0f} %" for ratio in flat.values())
    return Findings(
        f"{table(rows)}\nfrom {FULL} events on flat within {within}, in small and large rounds\n\n{table(model_rows)}",
        {
            "behind": {
                str(one): {
                    "small": _rounded(history.small[one]),
                    "large": _rounded(history.large[one]),
                    "state_bytes": history.state_bytes[one],
                    "steps": round(STEPS, 2) if one >= FULL else 1,
                }
                for one in behind
            },
            "flat": {name: round(ratio, 3) for name, ratio in flat.items()},
            "lrurec_us": [round(STEPS * step, 1) for step in models.step],
            "sasrec": {
                str(length): {
                    "us": [round(one, 1) for one in costs],
                    "ratios": [round(ratio, 1) for ratio in models.ratios(length)],
                }
                for length, costs in models.windows.items()
            },
        },
        {
            **{f"history_flat_{name}": ratio for name, ratio in flat.items()},
            **{f"sasrec_{length}": models.ratios(length)[1] for length in models.windows},
        },
    )


def measure(behind: Sequence[int], users: int, runs: int) -> History:
    """Bring users to their lengths, then give them events in turn.

    Args:
        behind: events that users have behind them, one crowd of users for each.
        users: in a large round, a multiple of `CYCLE`.
        runs: of each; the median counts.
    """
    with running(partitions=len(behind)) as rig:
        settings = _worker_settings(rig)
        manifest = keep_model(rig.settings)
        files = ArtefactStore(rig.settings.artefact_store).read(manifest)
        crowds = [Crowd(one, nth, len(behind), CYCLE + users, "user") for nth, one in enumerate(behind)]
        _prepare(settings, load_model(manifest, files), crowds)
        small: dict[int, list[Cost]] = {one: [] for one in behind}
        large: dict[int, list[Cost]] = {one: [] for one in behind}
        engine = _engine(settings.model_copy(update={"emit": "every"}), load_model(manifest, files), len(behind))
        try:
            feeds = {crowd: Feed(engine, crowd.partition) for crowd in crowds}
            for _ in range(runs):
                passes: dict[Crowd, tuple[list[Cost], list[Cost]]] = {crowd: ([], []) for crowd in crowds}
                for _ in range(_PASSES):
                    for crowd, (small_passes, large_passes) in passes.items():
                        few, many = crowd.users[:CYCLE], crowd.users[CYCLE:]
                        for first in range(0, CYCLE, _LIVE):
                            small_passes.append(_visit(feeds[crowd], crowd, few[first : first + _LIVE]))
                        large_passes.append(_visit(feeds[crowd], crowd, many))
                for crowd, (small_passes, large_passes) in passes.items():
                    small[crowd.behind].append(_mean(small_passes))
                    large[crowd.behind].append(_mean(large_passes))
        finally:
            engine.close()
        return History(
            {one: _median(costs) for one, costs in small.items()},
            {one: _median(costs) for one, costs in large.items()},
            {crowd.behind: _record_bytes(settings, crowd.partition) for crowd in crowds},
        )


def time_models(runs: int) -> Models:
    """Time one step of LRURec and whole windows of SASRec, of the same width and blocks, in turn; the least counts."""
    # imported only now: they load torch
    from training.model.lrurec import LRURec, Shape
    from training.model.step_graph import export_step
    from training.rivals.sasrec import SASRec, SASRecShape
    from training.rivals.window_graph import export_window

    shape, random = Shape(items=CATALOGUE), np.random.default_rng(0)
    step = _session(export_step(LRURec(shape).eval()))
    sasrec = SASRec(SASRecShape(items=CATALOGUE, window=max(WINDOWS))).eval()
    windows = {length: _session(export_window(sasrec, length)) for length in WINDOWS}

    def floats(*sizes: int) -> NDArray[np.float32]:
        return random.standard_normal(sizes, np.float32)

    def step_us(rows: int) -> float:
        given = {"state": floats(rows, shape.state), "x": floats(rows, shape.width)}
        return _cpu_us(lambda: step.run(None, given), _REPEATS) / rows

    def window_us(length: int, rows: int) -> float:
        given = {"x": floats(rows, length, shape.width)}
        return _cpu_us(lambda: windows[length].run(None, given), 1) / rows

    found: dict[tuple[int, int], list[float]] = {}
    for _ in range(runs):
        for rows in (1, _TOGETHER):
            found.setdefault((0, rows), []).append(step_us(rows))
            for length in WINDOWS:
                found.setdefault((length, rows), []).append(window_us(length, rows))
    least = {length: (min(found[length, 1]), min(found[length, _TOGETHER])) for length in (0, *WINDOWS)}
    return Models(least.pop(0), least)


def _worker_settings(rig: Rig) -> WorkerSettings:
    shared = rig.settings.model_dump()
    return WorkerSettings.model_construct(
        **shared, worker_id="bench", data_dir=rig.directory, history_length=HISTORY_LENGTH, emit="latest"
    )


def _engine(settings: WorkerSettings, model: Model, partitions: int) -> Engine:
    engine = Engine(settings, KafkaBroker(settings), lambda _: True)
    engine.own(range(partitions))
    engine.swap(model)
    return engine


def _prepare(settings: WorkerSettings, model: Model, crowds: Sequence[Crowd]) -> None:
    engine = _engine(settings, model, len(crowds))
    try:
        for crowd in crowds:
            feed, waiting = Feed(engine, crowd.partition), list[tuple[str, bytes]]()
            left = dict(crowd.events_before())
            while left:
                for user, events in list(left.items()):
                    waiting += [(user, value) for value in crowd.values(user, min(_CHUNK, events))]
                    left[user] -= _CHUNK
                    if left[user] <= 0:
                        del left[user]
                    if len(waiting) >= settings.round_records:
                        feed.process(waiting)
                        waiting.clear()
            if waiting:
                feed.process(waiting)
    finally:
        engine.close()


def _visit(feed: Feed, crowd: Crowd, users: Sequence[str]) -> Cost:
    return feed.process([(user, crowd.values(user, 1)[0]) for user in users])


def _mean(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.mean(values) for values in zip(*costs, strict=True)))


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def _rounded(cost: Cost) -> dict[str, float]:
    return {name: round(value, 1) for name, value in cost._asdict().items()}


def _record_bytes(settings: WorkerSettings, partition: int) -> int:
    store = Store(store_directory(settings) / str(partition))
    try:
        return round(statistics.mean(len(value) for _, value in store.items()))
    finally:
        store.close()


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _cpu_us(work: Callable[[], object], repeats: int) -> float:
    work()
    began_s = time.thread_time()
    for _ in range(repeats):
        work()
    return 1e6 * (time.thread_time() - began_s) / repeats


def _chart(history: History, models: Models) -> str:
    return chart(
        "CPU of an event by the history of its user",
        "events behind the user, or read again",
        "µs",
        {
            "whole service, small rounds": [(one, cost.cpu_us) for one, cost in history.small.items()],
            "whole service, large rounds": [(one, cost.cpu_us) for one, cost in history.large.items()],
            "SASRec alone, one user": [(length, alone) for length, (alone, _) in models.windows.items()],
            f"SASRec alone, one of {_TOGETHER}": [
                (length, together) for length, (_, together) in models.windows.items()
            ],
        },
    )
