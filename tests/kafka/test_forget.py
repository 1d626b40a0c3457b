"""`python -m ops forget`: a real worker and the next training obey, and the receipt proves it."""

import json
from pathlib import Path
from typing import Any

import pytest

from ops.forget import Forget, digest
from schemas import event
from schemas.cluster import Cluster
from schemas.event import Event
from schemas.settings import DONE, FAILED, Settings, run_command
from tests.kafka.balance import read_topic
from tests.kafka.stream import publish_model, send
from tests.kafka.worker_process import WorkerProcess, wait_until
from training.log.interactions import open_archive, read_interactions

USER = "anna@example.org"


def last_list(settings: Settings) -> bytes | None:
    """The last record of the user on the topic of lists."""
    of_user = [m for m in read_topic(settings, settings.recommendations) if m.key() == USER.encode()]
    return of_user[-1].value()


class Operator:
    """Runs the command, and reads what it says."""

    def __init__(self, settings: Settings, receipt: Path, capsys: pytest.CaptureFixture[str]) -> None:
        given = settings.model_dump(exclude=Cluster.model_fields.keys() - {"broker"})
        self._names = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        self._names.append(f"--receipt={receipt}")
        self._capsys = capsys

    def run(self, *options: str) -> tuple[int, dict[str, Any]]:
        status = run_command("ops forget", Forget, [USER, *options, *self._names, "--json"])
        return status, json.loads(self._capsys.readouterr().out)

    def verify(self) -> tuple[int, dict[str, bool]]:
        """Exit status, and what is gone."""
        status, said = self.run("--verify")
        return status, {name: found["gone"] for name, found in said["findings"].items()}


def test_who_is_forgotten_is_gone_from_state_lists_archive_and_training(
    created: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = created.model_copy(
        update={"archive": str(tmp_path / "archive"), "artefact_store": str(tmp_path / "artefacts")}
    )
    archive = open_archive(settings)
    assert archive is not None
    publish_model(settings, tmp_path, version=1)
    path = tmp_path / "receipt.json"
    operator = Operator(settings, path, capsys)
    events = [(user, event.encode(Event(user, f"i{n}", n))) for n in range(3) for user in (USER, "bert")]
    send(settings, settings.interactions, *events, (USER, b"\xc1 no event"))
    read_interactions(settings, archive=archive)
    with WorkerProcess(settings, tmp_path) as worker:
        wait_until(lambda: len(read_topic(settings, settings.recommendations)) == 6, "every event has its list")
        assert worker.stop() == 0

    status, said = operator.run()
    assert (status, said["done"], said["archive_events"], path.exists()) == (DONE, False, 3, False)
    assert len(read_topic(settings, settings.interactions)) == len(events) + 1
    status, said = operator.run("--yes", "--timeout-s=0.5")  # no worker runs
    assert (status, said["done"], said["receipt"]["changelog_offset"]) == (FAILED, False, None)
    early = path.read_text()
    assert operator.verify() == (FAILED, {"state": False, "lists": False, "archive": False, "training": True})
    assert path.read_text() == early

    with WorkerProcess(settings, tmp_path) as worker:
        worker.wait_for("owns partitions")
        status, said = operator.run("--yes")
        receipt = said["receipt"]
        assert (status, said["done"]) == (DONE, True)
        assert USER not in path.read_text()
        assert (receipt["user"], receipt["archive_events_before"], receipt["models"]) == (digest(USER), 3, [1])
        at = {
            (m.topic(), m.offset()): m for m in read_topic(settings, settings.interactions) if m.key() == USER.encode()
        }
        assert at[settings.interactions, receipt["offset"]].value() is None
        assert operator.verify() == (FAILED, {"state": True, "lists": True, "archive": False, "training": True})

        read_interactions(settings, archive=archive)  # as the next training does
        status, said = operator.run("--verify")
        assert (status, said["gone"], said["dead_letters"]) == (DONE, True, 1)
        now, then = json.loads(path.read_text()), json.loads(early)
        assert now["archive_events_after"] == 0

        path.write_text(early)  # of the wish that nobody had obeyed in time
        assert operator.verify()[0] == DONE
        completed = json.loads(path.read_text())
        assert (then["changelog_offset"], then["recommendations_offset"]) == (None, None)
        assert now["changelog_offset"] >= completed["changelog_offset"] is not None
        assert now["recommendations_offset"] == completed["recommendations_offset"]

        send(settings, settings.interactions, (USER, event.encode(Event(USER, "i1", 9))))  # is here again
        wait_until(lambda: last_list(settings), "a list")
        read_interactions(settings, archive=archive)
        status, said = operator.run("--verify")
        assert status == DONE, said
        assert "1 events, all of them since" in said["findings"]["archive"]["said"]
        assert worker.stop() == 0
