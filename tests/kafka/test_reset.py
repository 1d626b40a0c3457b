"""`python -m ops reset`: an app starts over, and ends up where it was."""

import json
from pathlib import Path

import numpy as np
import pytest
from kafka import TopicPartition

from ops.audit import audit, read_states
from ops.reset import Reset, forget_offsets, refuse_members
from ops.topics import admin, create
from schemas.kafka import describe_topics, end_offsets
from schemas.settings import DONE, REFUSED, Refused, Settings, run_command
from schemas.topics import topics
from tests.kafka.balance import committed, is_caught_up, read_topic
from tests.kafka.stream import publish_model, send, send_events
from tests.kafka.worker_process import WorkerProcess, wait_until

EVENTS = 400


def reset(settings: Settings, *options: str) -> int:
    given = settings.model_dump(include={"broker", "app", "partitions", *TOPICS})
    names = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return run_command("ops reset", Reset, [*names, "--json", *options])


TOPICS = {"interactions", "recommendations", "dead_letters", "models", "items"}


def process(settings: Settings, directory: Path) -> None:
    """Let a worker catch up and end."""
    with WorkerProcess(settings, directory) as worker:
        wait_until(lambda: is_caught_up(settings), "everything committed")
        assert worker.stop() == 0


def is_empty(settings: Settings) -> bool:
    """Whether the group has no members."""
    try:
        refuse_members(settings)
    except Refused:
        return False
    return True


def progress(settings: Settings) -> object:
    """What a reset undoes."""
    return (
        committed(settings),
        describe_topics(settings, [settings.changelog]),
        end_offsets(settings, settings.changelog),
    )


def test_after_a_reset_the_same_states_and_lists_are_made_from_the_log(
    created: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"--data-dir={tmp_path / 'data'}"
    publish_model(created, tmp_path, version=1)
    send_events(created, EVENTS)
    send(created, created.interactions, ("u1", None), ("u2", b"no event"))
    process(created, tmp_path)
    states, lists = read_states(created), len(read_topic(created, created.recommendations))

    before = progress(created)
    assert reset(created, data, "--yes") == REFUSED  # a stopped worker is a member until its session is over
    assert "has members: w (" in capsys.readouterr().err
    wait_until(lambda: is_empty(created), "the worker's session is over")
    assert reset(created, data) == DONE
    said = json.loads(capsys.readouterr().out)
    assert (said["done"], said["events"], said["expired"], len(said["stores"])) == (False, EVENTS + 2, 0, 4)
    assert progress(created) == before
    assert all(Path(store).exists() for store in said["stores"])

    assert reset(created, data, "--yes") == DONE
    assert json.loads(capsys.readouterr().out) == {**said, "done": True}
    assert not any(Path(store).exists() for store in said["stores"])
    assert set(committed(created).values()) == {-1001}
    assert not any(end_offsets(created, created.changelog).values())

    process(created, tmp_path)
    assert audit(created, window=100).clean
    again = read_states(created)
    assert again.keys() == states.keys()
    for key, state in states.items():
        assert again[key]._replace(state=b"", query=b"") == state._replace(state=b"", query=b"")
        np.testing.assert_allclose(np.frombuffer(again[key].state, "<f4"), np.frombuffer(state.state, "<f4"), atol=1e-5)
    assert len(read_topic(created, created.recommendations)) == 2 * lists


def test_a_running_worker_is_named_and_nothing_is_touched(
    created: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with WorkerProcess(created, tmp_path) as worker:
        worker.wait_for("owns partitions")
        assert reset(created, "--yes") == REFUSED
        assert f"ops reset: group {created.app} has members: w (" in capsys.readouterr().err
        with pytest.raises(Refused, match=f"a worker has joined group {created.app}"):
            forget_offsets(created)
        assert worker.stop() == 0


def test_what_ended_halfway_can_be_done_again(created: Settings) -> None:
    with admin(created.broker) as client:
        client.delete_topics([created.changelog])
    assert reset(created, "--yes") == DONE
    with admin(created.broker) as client:
        assert create(client, topics(created)) == []


def test_events_that_have_expired_are_counted(created: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    send(created, created.interactions, *(("u", b"{}") for _ in range(10)))
    [partition] = [partition for partition, end in end_offsets(created, created.interactions).items() if end]
    with admin(created.broker) as client:
        client.delete_records({TopicPartition(created.interactions, partition): 4})
    assert reset(created) == DONE
    said = json.loads(capsys.readouterr().out)
    assert (said["events"], said["expired"]) == (6, 4)


def test_without_a_topic_of_events_there_is_nothing_to_reset(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reset(settings, "--yes") == REFUSED
    assert f"topic {settings.interactions} does not exist" in capsys.readouterr().err
