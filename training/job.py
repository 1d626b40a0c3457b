"""The batch job, wired: read, hold out, train, judge, export, prove, announce."""

import time
from dataclasses import asdict, replace
from functools import partial

import structlog
import torch

from schemas.admission import admit
from schemas.artefact import Manifest
from schemas.artefact_store import ArtefactStore
from training.fitting import distributed, warm_start
from training.fitting.allocator import keep_freed_memory
from training.fitting.checkpoint import Checkpoint, key_of
from training.fitting.device import find_device
from training.fitting.progress import ProgressBar, reading_bar
from training.fitting.recipe import NothingToLearn, Recipe
from training.log.data_checks import UnfitData, problems
from training.log.histories import Histories, Spans
from training.log.holdout import Holdout, leave_one_out, newest
from training.log.interactions import Reading, open_archive, read_file, read_interactions
from training.release.artefact import Artefact, build
from training.release.champion import SETTINGS, announce, announced_before, require_topic
from training.release.opponent import Opponent, find_opponent, newest_ms, superseded
from training.release.probes import prove
from training.retraining import Start, retrain
from training.run import Run

log = structlog.get_logger()


def prepare(run: Run) -> None:
    """Set threads and memory of this process."""
    torch.set_num_threads(distributed.threads(run.threads))
    keep_freed_memory()


def retrain_once(run: Run) -> Manifest:
    """One retraining as `run` says: the model is in the store and, if so wished, announced.

    Raises:
        Refused: the file to train on cannot be read, there is no such store, no topic to announce the model on, or
            the cluster does not let us.
        NothingToLearn: there are no events, or no user has two.
        KafkaException: the broker cannot be reached, or a topic does not exist.
        OSError: the store cannot be written.
        ArithmeticError: the training diverged.
    """
    prepare(run)
    began, device = time.monotonic(), find_device()
    store, publishes = ArtefactStore(run.artefact_store), run.publish and run.from_inter is None
    store.require()
    if publishes:
        require_topic(run)
    if run.from_inter is None:
        admit(run, "training")
    key = key_of(run.of_checkpoint)
    checkpoint = Checkpoint(run.checkpoints / key, run.checkpoint_every)
    if publishes and checkpoint.found and (version := announced_before(run, store, key, checkpoint.offsets)):
        log.warning("the model of the checkpoint was announced: starting anew", version=version)
        checkpoint.remove()
        checkpoint.offsets = {}
    if run.from_inter:
        reading = read_file(run.from_inter)
    else:
        with reading_bar() as tell:
            reading = read_interactions(run, tell, open_archive(run), until=checkpoint.offsets)
    histories, checkpoint.offsets = reading.histories, reading.offsets
    latest_ms = run.limits.latest_ms(round(1000 * time.time()))
    counts = {"records": reading.records, "malformed": reading.malformed, "repeated": reading.repeated}
    log.info("read", users=len(histories.users), items=len(histories.item_ids), device=device.name, **counts)
    if not len(histories.items):
        found = f"{reading.records} records and no events, {reading.malformed} of them malformed"
        raise NothingToLearn(f"nothing to learn from: topic {run.interactions} has {found}")
    opponent = find_opponent(run, store, histories, latest_ms)
    holdout = _hold_out(run, histories, opponent, latest_ms)
    _check(run, reading, holdout)
    recipe, start = run.recipe, None
    if run.start != "cold":
        recipe, start = _warm_start(run, histories, holdout.train, opponent)
    trained = retrain(
        histories,
        holdout,
        recipe,
        device,
        ProgressBar,
        catch_up=run.catch_up,
        start=start,
        judge=partial(opponent.judge, histories, holdout, run.window, device) if opponent.compares else None,
        checkpoint=checkpoint,
    )
    gate = trained.gate or opponent.uncompared()
    artefact = build(
        trained.model,
        histories.item_ids,
        offsets=reading.offsets,
        trained_until_ms=newest_ms(histories, histories.users if run.catch_up else holdout.train),
        parameters=asdict(recipe)
        | {"ahead": list(recipe.ahead)}  # as JSON has it
        | {"device": device.name, "split": run.split, "holdout": run.holdout, "catch_up": run.catch_up}
        | {"start": "warm" if start else "cold", SETTINGS: key},
        metrics=trained.metrics | counts | {"events": len(histories.items), "seconds": time.monotonic() - began},
        gate=gate,
        curves=trained.curves,
    )
    _export(store, artefact)
    log.info("exported", version=artefact.manifest.version, store=run.artefact_store)
    if publishes:
        artefact = _offer(run, store, artefact, opponent)
    checkpoint.remove()
    return artefact.manifest


def _offer(run: Run, store: ArtefactStore, artefact: Artefact, opponent: Opponent) -> Artefact:
    """Announce it, unless it was rejected or the champion has changed: then it is rejected for that."""
    gate = artefact.manifest.gate
    if gate and gate.verdict != "rejected" and (changed := superseded(run, opponent, gate)):
        gate = changed
        store.remove(artefact.manifest)
        artefact = replace(artefact, manifest=artefact.manifest.model_copy(update={"gate": gate}))
        artefact.write(store)
    if gate and gate.verdict == "rejected":
        log.warning("rejected: the champion stays", version=artefact.manifest.version, reason=gate.reason)
    else:
        announce(run, store, artefact.manifest, "run")
    return artefact


def _export(store: ArtefactStore, artefact: Artefact) -> None:
    """Write an artefact and read it back; one that does not prove itself is not left behind."""
    artefact.write(store)
    try:
        prove(store, artefact.manifest)
    except BaseException:
        store.remove(artefact.manifest)
        raise


def _check(run: Run, reading: Reading, holdout: Holdout) -> None:
    """Raise UnfitData if the data look wrong, or warn where the settings allow that."""
    held_out = run.split == "leave-one-out" or run.holdout > 0
    now_ms = round(1000 * time.time())
    found = problems(reading.histories, holdout, run.limits, now_ms, held_out=held_out, busiest=reading.busiest)
    for problem in found:
        (log.warning if run.allow_odd_data else log.error)("odd data", problem=problem)
    if found and not run.allow_odd_data:
        raise UnfitData(f"the data are not fit to train on: {'; '.join(found)}; or train with --allow-odd-data")


def _hold_out(run: Run, histories: Histories, opponent: Opponent, latest_ms: int) -> Holdout:
    if run.split == "leave-one-out":
        return leave_one_out(histories)
    return newest(histories, run.holdout, opponent.since_ms, latest_ms)


def _warm_start(run: Run, histories: Histories, train: Spans, opponent: Opponent) -> tuple[Recipe, Start | None]:
    """Go on from the champion, if that can be done; else a line of the log says why not."""
    incumbent, since_ms, why_not = opponent.incumbent, opponent.since_ms, opponent.reason
    if incumbent and since_ms is not None:
        fresh = (histories.timestamps_ms > since_ms).mean()
        if run.split != "time":
            why_not = f"split {run.split} would ask for events that the champion has learned from"
        elif run.start == "auto" and fresh > warm_start.MOST_NEW:
            why_not = f"{fresh:.0%} of the events are new to the champion, at most {warm_start.MOST_NEW:.0%} may be"
        else:
            try:
                start = warm_start.start(incumbent, histories, train, since_ms, run.recipe)
            except ValueError as error:
                why_not = str(error)
            else:
                new = round(fresh * len(histories.items))
                log.info("warm start", champion=incumbent.version, new_events=new)
                return warm_start.fine_tuning(run.recipe), start
    log.warning("cold start", reason=why_not)
    return run.recipe, None
