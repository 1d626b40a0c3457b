"""A worker that catches up on a real Kafka, beside a bare consume and produce in the same run."""

import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from ops.audit import audit
from ops.kafka import LocalKafka
from ops.program import Program, ProgramFailed
from ops.publisher import Publisher
from ops.topics import admin, create
from schemas.event import Event, encode
from schemas.kafka import consumer_config, end_offsets, producer_config, watermarks
from schemas.settings import Settings
from schemas.topics import topics

_PARTITIONS: Final = 4
_USERS: Final = 20_000
_HISTORY_LENGTH: Final = 100
_BATCH: Final = 5_000
_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.05


class Throughput(NamedTuple):
    """What the runs gave, in events/s."""

    ours: list[float]
    bare: list[float]
    clean: bool
    """whether an audit of every run found nothing wrong"""


def measure(events: int, catalogue: int, runs: int) -> Throughput:
    """Time both sides in turn, on a Kafka of their own.

    Raises:
        ProgramFailed: a side did not get through.
    """
    with (
        tempfile.TemporaryDirectory(prefix="recommender-bench-") as name,
        LocalKafka(Path(name) / "kafka") as kafka,
    ):
        directory = Path(name)
        # not from the environment or a .env file, which are about another cluster
        settings = Settings.model_construct(
            broker=kafka.bootstrap, partitions=_PARTITIONS, artefact_store=str(directory / "store")
        )
        with admin(settings.broker) as client:
            create(client, topics(settings))
        _produce(settings, events, catalogue)
        _publish_model(settings, catalogue)
        result = Throughput([], [], clean=True)
        for run in range(runs):
            result.bare.append(_pass_through(_run_settings(settings, f"bare-{run}")))
            app = _run_settings(settings, f"worker-{run}")
            result.ours.append(_worker(app, directory))
            result = result._replace(clean=result.clean and audit(app, _HISTORY_LENGTH).clean)
        return result


def _run_settings(settings: Settings, name: str) -> Settings:
    run = settings.model_copy(update={"app": name, "recommendations": f"{name}-recommendations"})
    with admin(run.broker) as client:
        create(client, topics(run))
    return run


def _produce(settings: Settings, events: int, catalogue: int) -> None:
    random = np.random.default_rng(0)
    weights = 1 / np.arange(1, _USERS + 1)
    users = random.choice(_USERS, events, p=weights / weights.sum()).tolist()
    items = random.integers(0, catalogue, events).tolist()
    now_ms = int(time.time() * 1000)
    with Publisher(settings, linger_ms=20) as publisher:
        for user, item in zip(users, items, strict=True):
            event = Event(f"user-{user}", f"item-{item}", now_ms)
            publisher.send(settings.interactions, event.user_id, encode(event))


def _publish_model(settings: Settings, catalogue: int) -> None:
    """A model of the usual shape: its speed does not depend on what it has learned."""
    # imported only now: they load torch
    from schemas.artefact_store import ArtefactStore
    from training.model.lrurec import LRURec, Shape
    from training.release.artefact import build
    from training.release.champion import publish

    artefact = build(LRURec(Shape(items=catalogue)), [f"item-{item}" for item in range(catalogue)])
    artefact.write(ArtefactStore(settings.artefact_store))
    publish(settings, artefact.manifest)


def _pass_through(settings: Settings) -> float:
    """Events/s of a bare client loop that sends every event on and waits for its acknowledgement."""
    ends = end_offsets(settings, settings.interactions)
    consumer = Consumer(consumer_config(settings))
    producer = Producer(producer_config(settings) | {"linger.ms": 0, "delivery.report.only.error": True})
    failures: list[object] = []
    try:
        consumer.assign([TopicPartition(settings.interactions, partition, 0) for partition in ends])
        left, began = sum(ends.values()), 0.0
        while left > 0:
            messages = consumer.consume(_BATCH, 0.1)
            began = began or time.perf_counter()
            by_partition: dict[int, list[dict[str, bytes | None]]] = {partition: [] for partition in ends}
            for message in messages:
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                by_partition[message.partition() or 0].append({"key": message.key(), "value": message.value()})
            for partition, batch in by_partition.items():
                producer.produce_batch(
                    settings.recommendations, batch, partition, on_delivery=lambda error, _: failures.append(error)
                )
            if producer.flush(_TIMEOUT_S) or any(failures):
                raise ProgramFailed("the pass-through could not deliver")
            left -= len(messages)
        return sum(ends.values()) / (time.perf_counter() - began)
    finally:
        consumer.close()


def _worker(settings: Settings, directory: Path) -> float:
    """Lists/s of a worker that catches up, from the first acknowledged round to the last."""
    ends = end_offsets(settings, settings.interactions)
    total, lists = sum(ends.values()), 0
    arguments = ["--data-dir", str(directory / "states"), "--worker-id", "bench"]
    arguments += ["--history-length", str(_HISTORY_LENGTH)]
    with Program("stream_app", arguments, settings, directory / f"{settings.app}.log") as worker:
        watcher = Consumer(consumer_config(settings))
        deadline, first, began = time.monotonic() + _TIMEOUT_S, 0, 0.0
        while lists < total:
            lists = sum(watermarks(watcher, settings.recommendations, partition)[1] for partition in ends)
            if lists and not first:
                first, began = lists, time.perf_counter()
            if not worker.running or time.monotonic() > deadline:
                raise ProgramFailed(f"the worker sent {lists} of {total} lists\n{worker.log.read_text()[-2000:]}")
            time.sleep(_POLL_S)
        seconds = time.perf_counter() - began
        watcher.close()
        return (total - first) / seconds
