import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from ops.kafka import LocalKafka
from ops.topics import admin, create
from schemas.artefact import CHAMPION, ITEMS, decode_catalogue, decode_manifest
from schemas.artefact_store import ArtefactStore
from schemas.event import Event, encode
from schemas.kafka import consumer_config, producer_config
from schemas.settings import DONE, Refused
from schemas.topics import topics
from training import job
from training.__main__ import main
from training.histories import HistoryBuilder
from training.interactions import Reading
from training.job import retrain_once
from training.recipe import NothingToLearn
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


def test_a_log_without_events_teaches_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = Reading(HistoryBuilder().build(), offsets={}, records=5, malformed=3, repeated=0, forgotten=2)
    monkeypatch.setattr(job, "read_interactions", lambda *_given, **_named: empty)
    with pytest.raises(NothingToLearn, match=r"topic interactions has 5 records and no events, 3 .* malformed"):
        retrain_once(Run.model_validate({"publish": False, "artefact_store": str(tmp_path)}))


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


def send_ring(run: Run) -> None:
    producer = Producer(producer_config(run))
    for time in range(EVENTS):
        for user in range(USERS):
            event = Event(f"u{user}", f"i{(user + time) % 7}", 1000 * time)
            producer.produce(run.interactions, encode(event), key=event.user_id)
    assert producer.flush(30) == 0
