"""`python -m ops demo`: the whole loop on this machine, with real data on a real Kafka.

Imports the first part of MovieLens 100K, trains on what is in Kafka, replays the rest as live traffic while two workers
answer, retrains in the middle, and counts at the end.
"""

import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from math import nan
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ops import movielens
from ops.audit import Audit, audit
from ops.bulk_import import import_interactions, import_items
from ops.distribution import KAFKA_VERSION
from ops.kafka import HOST, LocalKafka, free_port
from ops.live import Answer, Listener, LiveEvent, Received, UserTraffic
from ops.program import Program
from ops.replay import replay
from ops.titles import items_beside, read_items
from ops.topics import admin, create
from schemas.artefact import decode_manifest
from schemas.event import Event, decode
from schemas.inter_file import Interactions, read_interactions
from schemas.kafka import end_offsets, read_range, read_topic
from schemas.report import Report
from schemas.settings import DONE, FAILED, Settings
from schemas.topics import topics

_PARTITIONS: Final = 4
_HISTORY_LENGTH: Final = 100
_IMPORTED: Final = 0.8
_RETRAINING_AT: Final = 0.25
_NEW_MODEL_BY: Final = 0.75
_IN_SERVICE_BY: Final = 0.95
"""shares of the live traffic: where the retraining starts, and where the traffic waits for it and for the workers"""
_PATIENCE_S: Final = 240.0
_COVER_S: Final = 30.0
_POLL_S: Final = 0.1
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)
_BAR_S: Final = 0.25
_LINE_S: Final = 10.0


class Demo(Report):
    """run the whole loop here: Kafka, two workers, MovieLens 100K, training, live traffic, a swap"""

    rate: float = Field(200.0, gt=0, description="live events per second")
    workers: int = Field(2, ge=1, le=16, description="worker processes")
    epochs: int = Field(12, ge=1, description="passes over the log of each of the two trainings")
    summary: Path = Field(Path("demo-summary.json"), description="where the figures are written as JSON")
    directory: Path | None = Field(None, description="keep data and logs here; they go at the end, if omitted")

    def run(self) -> int:
        """Run it, print the summary, and say by the status whether nothing was lost."""
        for number in _ENDING:
            signal.signal(number, _interrupt)
        directory = self.directory or Path(tempfile.mkdtemp(prefix="recommender-demo-"))
        directory.mkdir(parents=True, exist_ok=True)
        failed = True
        try:
            figures, found = _Run(self, directory).run()
            failed = not found.clean
        except KeyboardInterrupt:
            failed = False
            print("interrupted", file=sys.stderr)
            raise
        finally:
            if failed:
                print(f"data and logs are in {directory}", file=sys.stderr)
            elif self.directory is None:
                shutil.rmtree(directory, ignore_errors=True)
        self.summary.write_text(json.dumps(figures, indent=1) + "\n")
        verdict = "Something was lost" if failed else "Nothing was lost"
        self.report(f"  {verdict}; written to {self.summary}", **figures)
        return FAILED if failed else DONE


def _interrupt(*_: object) -> NoReturn:
    """End the demo, once: a second Ctrl-C must not keep it from ending what it started."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


class _Run:
    """One run of the demo, step by step."""

    def __init__(self, demo: Demo, directory: Path) -> None:
        self._demo = demo
        self._directory = directory
        self._console = Console(highlight=False, soft_wrap=True)

    def run(self) -> tuple[dict[str, Any], Audit]:
        """Every step; the figures of the summary, and what the audit found."""
        kafka = LocalKafka(self._directory / "kafka")
        settings = self._settings(kafka.bootstrap)
        port = free_port()
        self._console.print(f"[bold]LRURec on Apache Kafka {KAFKA_VERSION}[/bold], files in {self._directory}")
        self._console.print(f"Watch it at http://{HOST}:{port}/\n")
        with ExitStack() as stack:
            stack.enter_context(self._web_console(settings, port))
            with self._step("data") as say:
                path = movielens.movielens()
                interactions = read_interactions(path)
                past, future = interactions.part(0, _IMPORTED), interactions.part(_IMPORTED, 1)
                say(f"MovieLens 100K, {len(past):,} events to import and {len(future):,} to replay")
            with self._step("kafka") as say:
                stack.enter_context(kafka)
                with admin(settings.broker) as client:
                    made = create(client, topics(settings))
                say(f"a real broker at {kafka.bootstrap}, {len(made)} topics")
            with self._step("workers") as say:
                workers = stack.enter_context(self._workers(settings))
                workers.await_lines(self._demo.workers, _PATIENCE_S, event="owns partitions")
                say(f"{self._demo.workers} processes share {settings.partitions} partitions")
            with self._step("import") as say:
                import_items(settings, read_items(items_beside(path) or path))
                imported = import_interactions(settings, past)
                say(f"{imported.events:,} events acknowledged, {imported.events / imported.seconds:,.0f} events/s")
            with self._step("training", spin=False) as say:
                with self._training(settings, "training") as training:
                    model = training.result(_PATIENCE_S)
                say(f"from what is in Kafka, recall at 10 {_recall(model):.3f} on the newest events")
            with self._step("model") as say:
                workers.await_lines(self._demo.workers, _PATIENCE_S, event="model in service", model=model["version"])
                say("loaded, probed and in service in every worker")
            start = end_offsets(settings, settings.interactions)
            listener = stack.enter_context(Listener(settings, end_offsets(settings, settings.recommendations)))
            with self._step("live", spin=False) as say:
                began = time.monotonic()
                retrained = self._live(settings, future, listener, workers)
                events = _live_events(settings, start)
                _await_cover(events, listener)
                seconds = time.monotonic() - began
                say(f"{len(events):,} events, {len(listener.received):,} lists")
            with self._step("audit") as say:
                workers.stop()
                found = audit(settings, _HISTORY_LENGTH, start)
                say(f"{found.events:,} events and {found.users:,} states read back from the topics")
            received = listener.received
            swap_s = _swap_to_first_list_s(settings, retrained["version"], received)
        figures = _figures(past, events, received, seconds, swap_s, found)
        self._summarise(figures)
        return figures, found

    def _settings(self, broker: str) -> Settings:
        # not from the environment or a .env file, which are about another cluster
        return Settings.model_construct(
            broker=broker,
            app="demo",
            partitions=_PARTITIONS,
            artefact_store=str(self._directory / "artefacts"),
            archive=str(self._directory / "archive"),
        )

    def _workers(self, settings: Settings) -> Program:
        arguments = ["--processes", str(self._demo.workers), "--worker-id", "demo"]
        arguments += ["--data-dir", str(self._directory / "states"), "--history-length", str(_HISTORY_LENGTH)]
        return Program("stream_app", arguments, settings, self._directory / "workers.log")

    def _web_console(self, settings: Settings, port: int) -> Program:
        arguments = ["console", "--port", str(port)]
        return Program("ops", arguments, settings, self._directory / "console.log", patient=True)

    def _training(self, settings: Settings, name: str, *, live: bool = False) -> Program:
        """One retraining. Beside live traffic it gives way to it, else it shows its progress bar."""
        arguments = ["run", "--json", "--epochs", str(self._demo.epochs)]
        arguments += ["--threads", "1"] if live else ["--log-level", "warning"]
        log = self._directory / f"{name}.log"
        return Program("training", arguments, settings, log, show=not live, patient=live)

    def _live(self, settings: Settings, future: Interactions, listener: Listener, workers: Program) -> dict[str, Any]:
        """Replay the live traffic and retrain meanwhile; the manifest of the new model."""
        with self._bar(len(future)) as count:

            def send(since: float, until: float) -> None:
                replay(settings, count(future.part(since, until).events(), listener), self._demo.rate)

            announced = end_offsets(settings, settings.models)
            send(0.0, _RETRAINING_AT)
            with self._training(settings, "retraining", live=True) as retraining:
                send(_RETRAINING_AT, _NEW_MODEL_BY)
                # the announcement, not the end of the process: that takes seconds more
                while retraining.running and end_offsets(settings, settings.models) == announced:
                    time.sleep(_POLL_S)
                if not retraining.running:
                    retraining.result(0)
                send(_NEW_MODEL_BY, _IN_SERVICE_BY)
                version = max(_announced_ms(settings))
                workers.await_lines(self._demo.workers, _PATIENCE_S, event="model in service", model=version)
                send(_IN_SERVICE_BY, 1.0)
                return retraining.result(_PATIENCE_S)

    @contextmanager
    def _bar(self, total: int) -> Iterator[Callable[[Iterator[Event], Listener], Iterator[Event]]]:
        """A progress bar on a terminal, a line every 10 s elsewhere; what it gives counts events on their way."""
        columns = BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[said]}")
        terminal = self._console.is_terminal
        with Progress(
            TextColumn("  … live    "), *columns, console=self._console, transient=True, disable=not terminal
        ) as progress:
            task = progress.add_task("", total=total, said="")
            sent, shown = 0, time.monotonic()

            def count(events: Iterator[Event], listener: Listener) -> Iterator[Event]:
                nonlocal sent, shown
                for event in events:
                    yield event
                    sent += 1
                    if time.monotonic() - shown > (_BAR_S if terminal else _LINE_S):
                        shown = time.monotonic()
                        said = f"{len(listener.received):,} lists, model {listener.model or '-'}"
                        progress.update(task, completed=sent, said=said)
                        if not terminal:
                            self._console.print(f"  … live     {sent:,} of {total:,} events, {said}")

            yield count

    @contextmanager
    def _step(self, name: str, *, spin: bool = True) -> Iterator[Callable[[str], None]]:
        """A line for each step: what it is while it runs, what came of it and how long it took at its end."""
        said = ""

        def say(what: str) -> None:
            nonlocal said
            said = what

        began = time.monotonic()
        with self._console.status(f"{name} …") if spin and self._console.is_terminal else nullcontext():
            yield say
        self._console.print(f"  [green]✓[/green] {name:<8} {time.monotonic() - began:5.1f} s  {said}")

    def _summarise(self, figures: dict[str, Any]) -> None:
        f = {name: nan if value is None else value for name, value in figures.items()}
        k = f["hits_of"]
        self._console.print(
            f"""
  live events        {f["events"]:>9,}   at {f["events_per_s"]:,.0f} events/s
  lists              {f["lists"]:>9,}   event to list p50 {f["p50_ms"]:.0f} ms, p99 {f["p99_ms"]:.0f} ms
  hit rate at 10     {f["hit_rate_10"]:>9.4f}   most popular {f["popular_hit_rate_10"]:.4f}, on the same {k:,} events
  swaps              {f["swaps"]:>9,}   first list of the new model {f["swap_to_first_list_s"]:.2f} s after publishing
  lost               {f["lost"]:>9,}   applied twice {f["applied_twice"]:,}, without a list {f["uncovered"]:,}
"""
        )


def _figures(
    past: Interactions,
    events: Sequence[LiveEvent],
    received: Sequence[Received],
    seconds: float,
    swap_s: float | None,
    found: Audit,
) -> dict[str, Any]:
    answers = _answers(past, events, received)
    foreseeable = [answer for answer in answers if answer.hit is not None]
    latency = [answer.latency_ms for answer in answers]
    p50_ms, p99_ms = np.percentile(latency, [50, 99]).tolist() if latency else (None, None)
    return {
        "events": len(events),
        "lists": len(received),
        "events_per_s": round(len(events) / seconds, 1),
        "p50_ms": _rounded(p50_ms, 1),
        "p99_ms": _rounded(p99_ms, 1),
        "hit_rate_10": _share([bool(answer.hit) for answer in foreseeable]),
        "popular_hit_rate_10": _share([answer.popular_hit for answer in foreseeable]),
        "hits_of": len(foreseeable),
        "swaps": max(0, len({received_.list.model for received_ in received}) - 1),
        "swap_to_first_list_s": _rounded(swap_s, 3),
        "lost": found.lost,
        "applied_twice": found.applied_twice,
        "uncovered": found.uncovered,
        "wrong_histories": found.wrong_histories,
    }


def _answers(past: Interactions, events: Sequence[LiveEvent], received: Sequence[Received]) -> list[Answer]:
    """The answer to each event that got one; popularity is that of the past."""
    users: dict[str, UserTraffic] = defaultdict(UserTraffic)
    for user_id, item_id in zip(past.user_ids, past.item_ids, strict=True):
        users[user_id].history.append(LiveEvent(-1, -1, user_id, item_id, 0))
    for event in events:
        users[event.user_id].history.append(event)
    ranking = [item_id for item_id, _ in Counter(past.item_ids).most_common()]
    return [answer for list_, at_ms in received for answer in users[list_.user_id].show(list_, at_ms, ranking)]


def _share(found: Sequence[bool]) -> float | None:
    return _rounded(sum(found) / len(found) if found else None, 4)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _live_events(settings: Settings, start: Mapping[int, int]) -> list[LiveEvent]:
    """What was produced since `start`, as the topic has it."""
    events = []
    for partition, end in end_offsets(settings, settings.interactions).items():
        for messages in read_range(settings, settings.interactions, partition, start[partition], end):
            for message in messages:
                decoded = decode(message.value() or b"", message.key(), 0)
                sent_ms, offset = message.timestamp()[1], message.offset() or 0
                events.append(LiveEvent(partition, offset, decoded.user_id, decoded.item_id, sent_ms))
    return events


def _await_cover(events: Sequence[LiveEvent], listener: Listener) -> None:
    """Wait until every event has a list of its user at or after it; the audit counts those that never got one."""
    last = {(event.partition, event.user_id): event.offset for event in events}
    deadline = time.monotonic() + _COVER_S
    while time.monotonic() < deadline:
        reached: dict[tuple[int, str], int] = {}
        for list_, _ in list(listener.received):
            user = list_.partition, list_.user_id
            reached[user] = max(reached.get(user, -1), list_.offset)
        if all(reached.get(user, -1) >= offset for user, offset in last.items()):
            return
        time.sleep(_POLL_S)


def _swap_to_first_list_s(settings: Settings, version: int, received: Sequence[Received]) -> float | None:
    """Seconds from the announcement of a model to the arrival of its first list, if there is one."""
    first_ms = min((at for list_, at in received if list_.model == version), default=None)
    return None if first_ms is None else (first_ms - _announced_ms(settings)[version]) / 1000


def _announced_ms(settings: Settings) -> dict[int, int]:
    """When each model was announced, by version."""
    return {
        decode_manifest(message.value() or b"").version: message.timestamp()[1]
        for _, messages in read_topic(settings, settings.models, end_offsets(settings, settings.models))
        for message in messages
    }


def _recall(manifest: Mapping[str, Any]) -> float:
    recall: float = manifest["metrics"]["validation_recall_at_10"]
    return recall
