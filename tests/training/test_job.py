import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from fsspec.implementations.memory import MemoryFileSystem
from structlog.testing import capture_logs

from ops.kafka import LocalKafka
from ops.topics import admin, create
from schemas.artefact import CATALOGUE, CHAMPION, ITEMS, Manifest, decode_catalogue, decode_manifest
from schemas.artefact_store import ArtefactStore
from schemas.event import Event, encode
from schemas.kafka import consumer_config, producer_config
from schemas.malformed import Malformed
from schemas.settings import DONE, REFUSED, Refused, run_command
from schemas.topics import topics
from training import job
from training.__main__ import main
from training.fitting.checkpoint import MANIFEST, key_of
from training.fitting.recipe import NothingToLearn
from training.job import retrain_once
from training.log.histories import HistoryBuilder
from training.log.interactions import Reading
from training.release.artefact import Artefact
from training.release.champion import announced, publish
from training.run import Run

USERS, EVENTS = 12, 15


@pytest.fixture(scope="module")
def kafka() -> Iterator[LocalKafka]:
    with LocalKafka() as broker:
        yield broker


def test_a_file_becomes_an_artefact_and_the_last_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"u{user}\ti{(user + time) % 7}\t{time}\n" for user in range(USERS) for time in range(EVENTS)]
    source = tmp_path / "ring.inter"
    source.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))
    store = str(tmp_path / "store")
    options = ["--from-inter", str(source), "--artefact-store", store, "--epochs", "2", "--split", "leave-one-out"]
    monkeypatch.setattr("sys.argv", ["training", "run", *options, "--seed", "3", "--json"])
    assert main() == DONE
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    (manifest,) = ArtefactStore(store).manifests()
    assert (told["version"], told["metrics"]) == (manifest.version, manifest.metrics)
    assert manifest.parameters["seed"] == 3
    assert manifest.metrics["test_events"] == USERS
    assert manifest.offsets == {}


def test_the_log_becomes_the_champion(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = {"broker": kafka.bootstrap, "partitions": 3, "artefact_store": str(tmp_path), "epochs": 1}
    run = Run.model_validate(settings)
    with admin(run.broker) as client:
        create(client, topics(run))
    send_ring(run)
    producer = Producer(producer_config(run))
    producer.produce(run.interactions, encode(Event("gone", "secret", 1)), key="gone")
    producer.produce(run.interactions, None, key="gone")
    producer.produce(run.interactions, b"\xc1", key="u1")
    assert producer.flush(30) == 0

    manifest = retrain_once(run)

    assert manifest.metrics["records"] == USERS * EVENTS + 3 == sum(manifest.offsets.values())
    assert manifest.metrics["malformed"] == 1
    files = ArtefactStore(run.artefact_store).read(manifest)
    ids = decode_catalogue(files["catalogue.safetensors"], files[ITEMS]).item_ids
    assert sorted(ids) == [f"i{item}" for item in range(7)]
    consumer = Consumer(consumer_config(run))
    consumer.assign([TopicPartition(run.models, 0, 0)])
    (message,) = consumer.consume(1, timeout=30)
    consumer.close()
    value = message.value()
    assert value is not None
    assert (message.key(), decode_manifest(value)) == (CHAMPION.encode(), manifest)


def test_without_a_topic_to_announce_on_nothing_is_trained(kafka: LocalKafka, tmp_path: Path) -> None:
    run = Run.model_validate({"broker": kafka.bootstrap, "artefact_store": str(tmp_path), "models": "no-models"})
    with pytest.raises(Refused, match="topic no-models does not exist: create it with python -m ops topics"):
        retrain_once(run)


def test_a_wrong_store_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    run = Run.model_validate({"from_inter": tmp_path / "missing.inter", "artefact_store": "s4://models"})
    with pytest.raises(Refused, match="s4://models"):
        retrain_once(run)


def test_a_store_that_is_a_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    run = Run.model_validate({"from_inter": tmp_path / "missing.inter", "artefact_store": str(tmp_path / "store")})
    with pytest.raises(Refused, match="store is a file, and must be a directory"):
        retrain_once(run)


def test_a_log_without_events_teaches_nothing(
    kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    empty = Reading(HistoryBuilder().build(), offsets={}, records=5, malformed=3, repeated=0, forgotten=2)
    monkeypatch.setattr(job, "read_interactions", lambda *_given, **_named: empty)
    with pytest.raises(NothingToLearn, match=r"topic interactions has 5 records and no events, 3 .* malformed"):
        retrain_once(Run.model_validate({"broker": kafka.bootstrap, "publish": False, "artefact_store": str(tmp_path)}))


def test_a_failed_retraining_is_followed_by_the_next(kafka: LocalKafka, tmp_path: Path) -> None:
    """The log is empty at first."""
    names = {name: f"again-{name}" for name in ("interactions", "recommendations", "dead_letters", "models", "items")}
    run = Run.model_validate({"broker": kafka.bootstrap, "app": "again", "partitions": 1, "epochs": 1} | names)
    with admin(run.broker) as client:
        create(client, topics(run))
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (names | {"broker": run.broker}).items()]
    options += ["--every=1s", "--epochs=1", f"--artefact-store={tmp_path}"]
    with subprocess.Popen(
        [sys.executable, "-m", "training", "run", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        assert training.stderr is not None
        failed = next(line for line in training.stderr if "retraining failed" in line)
        send_ring(run)
        model = training.stdout.readline()
        training.terminate()
        assert training.wait(30) == 128 + signal.SIGTERM
    told = json.loads(failed)
    assert (told["kind"], told["level"], told["next_in_s"]) == ("NothingToLearn", "error", 1)
    assert model.startswith("model ")


class Rotten(MemoryFileSystem):
    """A file system that keeps other bytes than it is given."""

    protocol = "rotten"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        super().pipe_file(path, value[:-1] + b"!" if path.endswith(CATALOGUE) else value, mode, **options)


fsspec.register_implementation(Rotten.protocol, Rotten)


def test_an_artefact_that_the_store_has_changed_is_not_announced_and_not_kept(service: Run) -> None:
    run = service.model_copy(update={"artefact_store": "rotten://models", "epochs": 1})
    send_walks(run, 0, 5)
    with pytest.raises(Malformed, match=CATALOGUE):
        retrain_once(run)
    assert announced(run) == []
    assert ArtefactStore(run.artefact_store).contents() == ([], [], {})


def test_a_worse_candidate_is_kept_with_its_figures_and_not_announced(service: Run, champion: Manifest) -> None:
    take_over(service, champion)
    hopeless = service.model_copy(update={"learning_rate": 1e-9, "epochs": 1})
    manifest = retrain_once(hopeless)
    gate = manifest.gate
    assert gate is not None
    assert (gate.verdict, gate.champion) == ("rejected", champion.version)
    assert gate.high is not None
    assert gate.high < 0
    assert (gate.events, gate.users) == (LATE * WALKERS // 2, WALKERS)
    assert [one.manifest.version for one in announced(service)] == [champion.version]
    assert ArtefactStore(service.artefact_store).manifests()[-1] == manifest
    assert announced(service)[-1].manifest.curves.keys() >= {"loss", "validation_ndcg_at_10", "catch_up_loss"}


def test_a_champion_that_was_announced_meanwhile_stays(
    service: Run, champion: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a promotion or a rollback does it, at the last moment."""
    take_over(service, champion, late=0)
    promoted = champion.model_copy(update={"version": 7})
    export = job._export

    def export_late(store: ArtefactStore, artefact: Artefact) -> None:
        export(store, artefact)
        publish(service, promoted)

    monkeypatch.setattr(job, "_export", export_late)
    manifest = retrain_once(service.model_copy(update={"epochs": 1}))
    assert manifest.gate is not None
    assert manifest.gate.verdict == "rejected"
    assert manifest.gate.reason == f"the champion is 7 since this was trained, it was {champion.version}"
    assert [one.manifest.version for one in announced(service)] == [champion.version, 7]
    assert ArtefactStore(service.artefact_store).manifests()[-1].gate == manifest.gate


def test_a_model_that_was_announced_before_a_kill_is_not_announced_again(
    service: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = service.model_copy(update={"epochs": 1, "checkpoint_every": 1e-9, "checkpoints": tmp_path / "checkpoints"})
    send_walks(run, 0, 10)
    with monkeypatch.context() as killed:
        killed.setattr(job.Checkpoint, "remove", lambda _: sys.exit("killed"))
        with pytest.raises(SystemExit):
            retrain_once(run)
    first = announced(run)[-1].manifest
    send_walks(run, 10, 15)
    with capture_logs() as logs:
        second = retrain_once(run)
    told = [line["version"] for line in logs if line["event"].startswith("the model of the checkpoint was announced")]
    assert told == [first.version]
    assert sum(second.offsets.values()) == sum(first.offsets.values()) + 5 * WALKERS
    assert not list((tmp_path / "checkpoints").iterdir())


def test_with_the_gate_open_a_worse_candidate_is_announced(service: Run, champion: Manifest) -> None:
    take_over(service, champion)
    manifest = retrain_once(service.model_copy(update={"learning_rate": 1e-9, "epochs": 1, "gate": False}))
    assert manifest.gate is not None
    assert manifest.gate.verdict == "uncompared"
    assert announced(service)[-1].manifest == manifest


def test_a_warm_start_goes_on_from_the_champion(service: Run, champion: Manifest) -> None:
    take_over(service, champion)
    manifest = retrain_once(service.model_copy(update={"start": "warm", "epochs": 4}))
    assert manifest.parameters["start"] == "warm"
    assert manifest.gate is not None
    assert manifest.gate.verdict == "accepted"
    assert manifest.gate.candidate_ndcg_at_10 is not None
    assert manifest.gate.candidate_ndcg_at_10 > 0.3
    assert announced(service)[-1].manifest == manifest


def test_without_a_champion_that_can_be_loaded_a_warm_start_is_a_cold_one(service: Run, champion: Manifest) -> None:
    take_over(service, champion)
    (Path(service.artefact_store) / champion.path / CATALOGUE).write_bytes(b"")
    manifest = retrain_once(service.model_copy(update={"start": "warm", "epochs": 1}))
    assert manifest.parameters["start"] == "cold"
    assert manifest.gate is not None
    assert manifest.gate.verdict == "uncompared"
    assert manifest.gate.reason == f"no champion to compare: {champion.version} cannot be loaded"
    assert announced(service)[-1].manifest == manifest


def test_what_the_champion_knows_already_decides_nothing(service: Run, champion: Manifest) -> None:
    take_over(service, champion, late=0)
    gate = retrain_once(service.model_copy(update={"learning_rate": 1e-9, "epochs": 1})).gate
    assert gate is not None
    assert gate.verdict == "uncompared"
    assert gate.reason.startswith("too few new events to compare: 0 since the champion")


def test_a_broker_that_is_away_is_one_line_and_the_next_try(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("schemas.kafka.TIMEOUT_S", 0.2)
    monkeypatch.setattr("schemas.logs.configure", lambda _level: None)
    tries = iter([retrain_once, retrain_once])

    def try_again(run: Run) -> Manifest:
        attempt = next(tries, None)
        if attempt is None:
            raise Refused("enough")
        return attempt(run)

    monkeypatch.setattr(job, "retrain_once", try_again)
    options = ["--every=0.01s", "--broker=127.0.0.1:1", f"--artefact-store={tmp_path}"]
    with capture_logs() as logs:
        assert run_command("training run", Run, options) == REFUSED
    assert [(line["event"], line["kind"]) for line in logs] == [("retraining failed", "KafkaException")] * 2
    assert "KafkaError{" not in logs[0]["error"]


def test_a_corrupt_checkpoint_and_a_full_disk_are_one_line_each_and_the_next_try_succeeds(tmp_path: Path) -> None:
    """The file-size limit stands in for the disk: it is lowered, and raised again, from outside."""
    source, store = tmp_path / "ring.inter", tmp_path / "store"
    rows = [f"u{user}\ti{(user + time) % 7}\t{time}\n" for user in range(USERS) for time in range(EVENTS)]
    source.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))
    settings = {"from_inter": source, "artefact_store": str(store), "epochs": 1}
    checkpoint = tmp_path / "checkpoints" / key_of(Run.model_validate(settings).of_checkpoint)
    checkpoint.mkdir(parents=True)
    (checkpoint / MANIFEST).write_text('{"format": 1')
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    options += ["--every=1s", f"--checkpoints={tmp_path / 'checkpoints'}"]
    with subprocess.Popen(
        [sys.executable, "-m", "training", "run", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        assert training.stderr is not None
        damaged = json.loads(training.stderr.readline())
        assert training.stdout.readline().startswith("model ")
        resource.prlimit(training.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        failed = json.loads(next(line for line in training.stderr if "retraining failed" in line))
        kept = len(ArtefactStore(str(store)).manifests())
        resource.prlimit(training.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for _ in range(kept):
            assert training.stdout.readline().startswith("model ")
        training.terminate()
        training.communicate(timeout=30)
        assert training.returncode == 128 + signal.SIGTERM
    assert damaged["event"] == "checkpoint cannot be read: starting anew"
    assert damaged["directory"] == str(checkpoint)
    assert (failed["kind"], "File too large" in failed["error"]) == ("OSError", True)
    assert ArtefactStore(str(store)).contents().broken == {}


WALKERS, ROAD, EARLY, LATE = 50, 60, 20, 20


@pytest.fixture
def service(kafka: LocalKafka, tmp_path: Path) -> Run:
    """A retraining with topics and a store of its own, short and quick to learn."""
    names = {name: f"{tmp_path.name[-40:]}-{name}" for name in ("interactions", "models")}
    settings = {"broker": kafka.bootstrap, "partitions": 1, "artefact_store": str(tmp_path / "store")}
    quick = {"holdout": 0.3, "epochs": 8, "window": 20, "batch": 8, "learning_rate": 0.01, "dropout": 0.0, "threads": 1}
    run = Run.model_validate(settings | names | quick)
    with admin(run.broker) as client:
        create(client, [topic for topic in topics(run) if topic.name in names.values()])
    return run


@pytest.fixture(scope="module")
def champion(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A model of the early walks; `take_over` makes it the champion of another service."""
    folder = tmp_path_factory.mktemp("champion")
    run: Run = service.__wrapped__(kafka, folder)  # type: ignore[attr-defined]
    send_walks(run, 0, EARLY)
    manifest = retrain_once(run)
    assert manifest.gate is not None
    assert manifest.gate.reason == "no champion to compare: none was announced"
    _champions[manifest.version] = Path(run.artefact_store)
    return manifest


_champions: dict[int, Path] = {}


def take_over(run: Run, champion: Manifest, late: int = LATE) -> None:
    """Give this service the champion's model and log, and as many later events of each user."""
    shutil.copytree(_champions[champion.version], run.artefact_store)
    publish(run, champion)
    send_walks(run, 0, EARLY + late)


def send_walks(run: Run, since: int, until: int) -> None:
    """Every user walks the same road, from a place of their own."""
    producer = Producer(producer_config(run))
    for time in range(since, until):
        for user in range(WALKERS):
            event = Event(f"u{user}", f"i{(7 * user + time) % ROAD}", 1000 * time)
            producer.produce(run.interactions, encode(event), key=event.user_id)
    assert producer.flush(30) == 0


def send_ring(run: Run) -> None:
    producer = Producer(producer_config(run))
    for time in range(EVENTS):
        for user in range(USERS):
            event = Event(f"u{user}", f"i{(user + time) % 7}", 1000 * time)
            producer.produce(run.interactions, encode(event), key=event.user_id)
    assert producer.flush(30) == 0
