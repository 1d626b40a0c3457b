"""The batch job, wired: read, hold out, train, export, announce."""

import time
from dataclasses import asdict

import structlog
import torch
from confluent_kafka import KafkaError, KafkaException

from schemas.artefact import Manifest
from schemas.artefact_store import ArtefactStore
from schemas.kafka import describe_topics
from schemas.settings import Refused, Settings
from training.allocator import keep_freed_memory
from training.artefact import build
from training.champion import publish
from training.device import find_device
from training.histories import Histories
from training.holdout import Holdout, leave_one_out, newest
from training.interactions import read_file, read_interactions
from training.progress import ProgressBar, reading_bar
from training.recipe import NothingToLearn
from training.retraining import retrain
from training.run import Run

log = structlog.get_logger()


def retrain_once(run: Run) -> Manifest:
    """One retraining as `run` says: the model is in the store and, if so wished, announced.

    Raises:
        Refused: the file to train on cannot be read, there is no such store, or no topic to announce the model on.
        NothingToLearn: there are no events, or no user has two.
        KafkaException: the broker cannot be reached, or a topic does not exist.
        OSError: the store cannot be written.
        ArithmeticError: the training diverged.
    """
    torch.set_num_threads(run.threads)
    keep_freed_memory()
    began, device = time.monotonic(), find_device()
    store, publishes = ArtefactStore(run.artefact_store), run.publish and run.from_inter is None
    if publishes:
        _require(run, run.models)
    if run.from_inter:
        reading = read_file(run.from_inter)
    else:
        with reading_bar() as tell:
            reading = read_interactions(run, tell)
    histories = reading.histories
    counts = {"records": reading.records, "malformed": reading.malformed, "repeated": reading.repeated}
    log.info("read", users=len(histories.users), items=len(histories.item_ids), device=device.name, **counts)
    if not len(histories.items):
        found = f"{reading.records} records and no events, {reading.malformed} of them malformed"
        raise NothingToLearn(f"nothing to learn from: topic {run.interactions} has {found}")
    trained = retrain(histories, _hold_out(run, histories), run.recipe, device, ProgressBar, catch_up=run.catch_up)
    artefact = build(
        trained.model,
        histories.item_ids,
        offsets=reading.offsets,
        parameters=asdict(run.recipe)
        | {"device": device.name, "split": run.split, "holdout": run.holdout, "catch_up": run.catch_up},
        metrics=trained.metrics | counts | {"seconds": time.monotonic() - began},
    )
    artefact.write(store)
    log.info("exported", version=artefact.manifest.version, store=run.artefact_store)
    if publishes:
        publish(run, artefact.manifest)
        log.info("published", version=artefact.manifest.version, topic=run.models)
    return artefact.manifest


def _require(settings: Settings, topic: str) -> None:
    """Refuse to go on without this topic."""
    try:
        describe_topics(settings, [topic])
    except KafkaException as error:
        if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        raise Refused(f"topic {topic} does not exist: create it with python -m ops topics") from None


def _hold_out(run: Run, histories: Histories) -> Holdout:
    return leave_one_out(histories) if run.split == "leave-one-out" else newest(histories, run.holdout)
