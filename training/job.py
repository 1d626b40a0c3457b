"""The batch job, wired: read, hold out, train, export, announce."""

import time
from dataclasses import asdict

import structlog
import torch

from schemas.artefact import Manifest
from schemas.artefact_store import ArtefactStore
from schemas.settings import Refused
from training.allocator import keep_freed_memory
from training.artefact import build
from training.champion import publish
from training.device import find_device
from training.histories import Histories
from training.holdout import Holdout, leave_one_out, newest
from training.interactions import Reading, read_interactions
from training.progress import ProgressBar
from training.recbole import MalformedInter, read_inter
from training.retraining import retrain
from training.run import Run

log = structlog.get_logger()


def retrain_once(run: Run) -> Manifest:
    """One retraining as `run` says: the model is in the store and, if so wished, announced.

    Raises:
        Refused: the file to train on cannot be read.
        KafkaException: the broker cannot be reached, or a topic does not exist.
        OSError: the store cannot be written.
        ArithmeticError: the training diverged.
    """
    torch.set_num_threads(run.threads)
    keep_freed_memory()
    began, device = time.monotonic(), find_device()
    reading = _read(run)
    histories = reading.histories
    counts = {"records": reading.records, "malformed": reading.malformed, "repeated": reading.repeated}
    log.info("read", users=len(histories.users), items=len(histories.item_ids), device=device.name, **counts)
    trained = retrain(histories, _hold_out(run, histories), run.recipe, device, ProgressBar, catch_up=run.catch_up)
    artefact = build(
        trained.model,
        histories.item_ids,
        offsets=reading.offsets,
        parameters=asdict(run.recipe)
        | {"device": device.name, "split": run.split, "holdout": run.holdout, "catch_up": run.catch_up},
        metrics=trained.metrics | counts | {"seconds": time.monotonic() - began},
    )
    artefact.write(ArtefactStore(run.artefact_store))
    log.info("exported", version=artefact.manifest.version, store=run.artefact_store)
    if run.publish and run.from_inter is None:
        publish(run, artefact.manifest)
        log.info("published", version=artefact.manifest.version, topic=run.models)
    return artefact.manifest


def _read(run: Run) -> Reading:
    if run.from_inter is None:
        return read_interactions(run)
    try:
        histories = read_inter(run.from_inter)
    except (MalformedInter, FileNotFoundError, IsADirectoryError) as error:
        raise Refused(str(error)) from error
    return Reading(histories, offsets={}, records=len(histories.items), malformed=0, repeated=0, forgotten=0)


def _hold_out(run: Run, histories: Histories) -> Holdout:
    return leave_one_out(histories) if run.split == "leave-one-out" else newest(histories, run.holdout)
