"""`python -m ops import` and `replay` of a CSV file, over a real broker."""

import json
from pathlib import Path

import msgpack
import pytest

from ops.bulk_import import Import
from ops.replay import Replay
from ops.source import Source
from schemas.event import Event, decode
from schemas.kafka import end_offsets
from schemas.settings import DONE, REFUSED, Settings, run_command
from tests.kafka.balance import read_topic

EVENTS = {Event("ann", "1", 20_000), Event("bo", "2", 10_000), Event("ann", "2", 5_000, "buy", "e")}
CSV = "user_id,item_id,timestamp,event_type,event_id\nann,1,20,,\nbo,2,10,,\nann,2,5,buy,e\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_text(CSV)
    return path


def produce(command: type[Source], settings: Settings, path: Path, *options: str) -> int:
    names = ("--broker", settings.broker, "--interactions", settings.interactions, "--items", settings.items)
    return run_command("ops", command, [str(path), "--time-unit", "s", "--json", *names, *options])


@pytest.mark.parametrize("command", [Import, Replay])
def test_every_event_of_the_file_is_produced(
    command: type[Source], created: Settings, path: Path, capsys: pytest.CaptureFixture[str]
):
    assert produce(command, created, path) == DONE
    result = json.loads(capsys.readouterr().out)
    assert (result["events"], result["skipped"]) == (3, 0)
    found = [decode(m.value() or b"", m.key(), -1) for m in read_topic(created, created.interactions)]
    assert set(found) == EVENTS
    assert [event.timestamp_ms for event in found if event.user_id == "ann"] == [20_000, 5_000]  # the file's order


def test_of_a_file_with_a_bad_row_nothing_is_produced_or_all_the_rest(
    created: Settings, path: Path, capsys: pytest.CaptureFixture[str]
):
    path.write_text(CSV + "bo,3,soon,,\n")
    assert produce(Import, created, path) == REFUSED
    assert f"{path}, line 5: timestamp: must be a number of seconds" in capsys.readouterr().err
    assert sum(end_offsets(created, created.interactions).values()) == 0
    assert produce(Import, created, path, "--on-bad-row", "skip") == DONE
    result = json.loads(capsys.readouterr().out)
    assert (result["events"], result["skipped"]) == (3, 1)
    assert sum(end_offsets(created, created.interactions).values()) == 3


@pytest.mark.parametrize("command", [Import, Replay])
def test_events_are_produced_as_the_topics_own_producers_write_them(
    command: type[Source], created: Settings, path: Path
):
    own = ("--event-fields", "user_id=customer.id,timestamp=at", "--event-time-unit", "iso")
    assert produce(command, created, path, *own) == DONE
    assert {"customer": {"id": "bo"}, "item_id": "2", "at": "1970-01-01T00:00:10.000+00:00"} in [
        msgpack.unpackb(message.value()) for message in read_topic(created, created.interactions)
    ]
