"""`python -m ops rebuild`: whatever was lost, the states are again what the log says, and workers go on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ops.audit import audit, read_states
from ops.rebuild import Rebuild
from ops.topics import admin, create
from schemas.kafka import consumer_config, describe_topics, end_offsets, read_topic
from schemas.settings import DONE, REFUSED, Settings, run_command
from schemas.state import StateRecord
from schemas.topics import topics
from stream_app.broker import Record
from stream_app.engine import Engine
from stream_app.kafka_broker import KafkaBroker
from stream_app.settings import WorkerSettings
from tests.kafka.balance import committed, is_caught_up
from tests.kafka.stream import ITEMS, publish_model, send, send_events
from tests.kafka.worker_process import WorkerProcess, wait_until
from tests.stream_app.tiny_model import TinyModel

EVENTS = 400
NAMED = {"broker", "app", "partitions", "interactions", "recommendations", "dead_letters", "models", "items"}


def options(settings: Settings, source: str, data_dir: Path, *more: str) -> list[str]:
    given = [f"--{name.replace('_', '-')}={value}" for name, value in settings.model_dump(include=NAMED).items()]
    return [*given, f"--from={source}", f"--data-dir={data_dir}", "--worker-id=w", "--json", *more]


def rebuild(settings: Settings, source: str, data_dir: Path, *more: str) -> int:
    return run_command("ops rebuild", Rebuild, options(settings, source, data_dir, *more))


def histories(settings: Settings) -> dict[bytes, StateRecord]:
    """The states without what a model made of them."""
    found = read_states(settings)
    return {key: record._replace(model_version=0, state=b"", query=b"") for key, record in found.items()}


@contextmanager
def worker(settings: Settings, data_dir: Path, worker_id: str) -> Iterator[Engine]:
    """A worker's engine, outside the group."""
    given = settings.model_dump(include=NAMED) | {"data_dir": data_dir, "worker_id": worker_id}
    engine = Engine(WorkerSettings(_env_file=None, **given), KafkaBroker(settings), lambda _: True)
    try:
        yield engine
    finally:
        engine.close()


def recovers(settings: Settings, data_dir: Path, worker_id: str) -> int:
    """Open all partitions as a worker with this id does; the records that it reads."""
    with worker(settings, data_dir, worker_id) as engine:
        return engine.own(range(settings.partitions))


@contextmanager
def member(settings: Settings, worker_id: str) -> Iterator[Consumer]:
    """A member of the app's group; its session ends with it."""
    instance = {"group.instance.id": worker_id, "session.timeout.ms": 6000}
    consumer = Consumer(consumer_config(settings) | {"group.id": settings.app, **instance})
    consumer.subscribe([settings.interactions])
    try:
        wait_until(lambda: consumer.poll(0.1) is None and consumer.assignment(), "assigned")
        yield consumer
    finally:
        consumer.close()


@pytest.fixture
def stopped(created: Settings, tmp_path: Path) -> Settings:
    """An app whose only worker, `w`, has done all events and is stopped."""
    send_events(created, EVENTS)
    send(created, created.interactions, ("u1", None), ("u2", b"no event"))
    ends = end_offsets(created, created.interactions)
    with worker(created, tmp_path / "data", "w") as engine:
        engine.swap(TinyModel(1, ITEMS).load())
        engine.own(ends)
        for partition, messages in read_topic(created, created.interactions, ends):
            engine.process({partition: [Record(m.offset(), m.key(), m.value(), m.timestamp()[1]) for m in messages]})
    committing = Consumer(consumer_config(created) | {"group.id": created.app})
    offsets = [TopicPartition(created.interactions, partition, end) for partition, end in ends.items()]
    committing.commit(offsets=offsets, asynchronous=False)
    committing.close()
    return created


def test_a_member_of_the_group_is_named_and_nothing_is_touched(
    stopped: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = describe_topics(stopped, [stopped.changelog]), committed(stopped)
    with member(stopped, "w"):
        for source in ("store", "log"):
            assert rebuild(stopped, source, tmp_path / "data") == REFUSED
            assert f"group {stopped.app} has members: w (" in capsys.readouterr().err
        assert rebuild(stopped, "changelog", tmp_path / "data") == REFUSED
        assert f"worker w is a member of group {stopped.app}: stop it" in capsys.readouterr().err
        assert rebuild(stopped, "changelog", tmp_path / "elsewhere", "--worker-id=other", "--only=1,3") == DONE
    assert (describe_topics(stopped, [stopped.changelog]), committed(stopped)) == before
    made = sorted(path.name for path in (tmp_path / "elsewhere" / stopped.app / "other").iterdir())
    assert made == ["1", "3"]


def test_the_states_come_back_from_the_log_the_stores_and_the_changelog_and_a_worker_goes_on(
    stopped: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    before, position = histories(stopped), committed(stopped)
    assert len(before) > 100

    # the changelog is lost: a copy of the stores beside them is behind nothing, and goes
    with admin(stopped) as client:
        client.delete_topics([stopped.changelog])
        wait_until(lambda: stopped.changelog not in client.list_topics(), "deleted")
        create(client, topics(stopped))
    shutil.copytree(data / stopped.app / "w", data / stopped.app / "z, a copy")
    assert rebuild(stopped, "changelog", data) == REFUSED
    assert "`python -m ops rebuild --from store`" in capsys.readouterr().err
    assert rebuild(stopped, "store", data) == DONE
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["users"], told["stores"], told["deleted"], told["left"]) == (len(before), 4, 4, 0)
    assert histories(stopped) == before
    assert committed(stopped) == position
    assert recovers(stopped, data, "w") == 0
    assert audit(stopped, window=100).clean

    # the stores are lost
    shutil.rmtree(data)
    assert rebuild(stopped, "store", data) == REFUSED
    assert "has no complete store of partitions [0, 1, 2, 3]" in capsys.readouterr().err
    assert rebuild(stopped, "changelog", data) == DONE
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["records"] == len(before) + 4
    assert recovers(stopped, data, "w") == 0

    # all but the log is lost
    shutil.rmtree(data)
    with admin(stopped) as client:
        client.delete_topics([stopped.changelog])
    assert rebuild(stopped, "log", data) == DONE
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["events"] == EVENTS + 2
    assert histories(stopped) == before
    assert committed(stopped) == position
    assert recovers(stopped, data, "w") == 0
    assert recovers(stopped, data, "new-disk") == len(before) + 4

    publish_model(stopped, tmp_path, version=2)
    send_events(stopped, EVENTS)
    with WorkerProcess(stopped, tmp_path) as process:
        wait_until(lambda: is_caught_up(stopped), "everything committed")
        assert process.stop() == 0
    assert audit(stopped, window=100).clean


def test_a_rebuild_that_is_killed_can_be_done_again(
    stopped: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, before = tmp_path / "data", histories(stopped)
    [known] = describe_topics(stopped, [stopped.changelog]).values()
    command = [sys.executable, "-m", "ops", "rebuild", *options(stopped, "log", data)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], env=os.environ, stdout=subprocess.DEVNULL) as killed:
        wait_until(lambda: made_anew(stopped, known.topic_id), "the changelog is deleted or made anew", 110)
        killed.send_signal(signal.SIGKILL)
    capsys.readouterr()
    if killed.returncode:  # else it was faster than the kill
        assert set(committed(stopped).values()) == {-1001}  # workers that are started now process the whole log
        assert rebuild(stopped, "log", data) == REFUSED
        assert "finish it with `python -m ops rebuild --from store`" in capsys.readouterr().err
    assert rebuild(stopped, "store", data) == DONE
    assert histories(stopped) == before
    assert sum(committed(stopped).values()) == EVENTS + 2
    assert sum(end_offsets(stopped, stopped.changelog).values()) == len(before) + 4
    assert audit(stopped, window=100).clean
    assert recovers(stopped, data, "w") == 0


def made_anew(settings: Settings, topic_id: str) -> bool:
    try:
        return describe_topics(settings, [settings.changelog])[settings.changelog].topic_id != topic_id
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return True
        raise
