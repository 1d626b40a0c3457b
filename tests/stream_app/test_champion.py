from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.artefact import CATALOGUE, CHAMPION, Manifest, encode_manifest
from schemas.artefact_store import ArtefactStore
from stream_app.champion import Champion
from stream_app.model import Model
from tests.stream_app.tiny_model import TinyModel


class Announcement:
    """A record on the topic `models`."""

    def __init__(self, value: bytes | None, key: bytes = CHAMPION.encode()) -> None:
        self._key, self._value = key, value

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def offset(self) -> int:
        return 0


class Worker:
    """A champion with its store, and what it put in service."""

    def __init__(self, directory: Path) -> None:
        self.now_s = 0.0
        self.served: list[int] = []
        self.directory = directory
        self.store = ArtefactStore(str(directory))
        self.champion = Champion(self.store, self._swap, clock=lambda: self.now_s)

    def _swap(self, model: Model) -> None:
        self.served.append(model.version)

    def publish(self, version: int) -> Any:
        manifest, files = TinyModel(version, ["a", "b", "c", "d"]).artefact()
        self.store.write(files, manifest)
        return announced(manifest)

    def damage(self, version: int) -> Path:
        return self.directory / str(version) / CATALOGUE


def announced(manifest: Manifest) -> Any:
    return Announcement(encode_manifest(manifest))


TIMED_OUT = TimeoutError("no answer")


def no_answer(error: Exception = TIMED_OUT) -> Callable[[ArtefactStore, Manifest], dict[str, bytes]]:
    def read(_store: ArtefactStore, _manifest: Manifest) -> dict[str, bytes]:
        raise error

    return read


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    return Worker(tmp_path / "artefacts")


def test_the_last_champion_on_the_topic_is_served_at_the_start(worker: Worker) -> None:
    worker.champion.catch_up([worker.publish(1), worker.publish(2)])
    assert worker.served == [2]


def test_an_older_version_takes_over_when_it_is_announced(worker: Worker) -> None:
    old = worker.publish(1)
    worker.champion.catch_up([old, worker.publish(2)])
    worker.champion.follow([old])
    assert worker.served == [2, 1]


def test_of_several_champions_at_once_only_the_last_is_loaded(worker: Worker) -> None:
    worker.champion.follow([worker.publish(1), worker.publish(2), worker.publish(3)])
    assert worker.served == [3]


def test_the_champion_in_service_is_not_loaded_again(worker: Worker) -> None:
    champion = worker.publish(1)
    worker.champion.catch_up([champion])
    worker.champion.follow([champion])
    assert worker.served == [1]


def test_other_roles_are_not_served(worker: Worker) -> None:
    challenger = Announcement(worker.publish(1).value(), key=b"challenger")
    worker.champion.catch_up([challenger])
    assert worker.served == []
    assert worker.champion.refused == 0


@pytest.mark.parametrize("harm", ["truncated", "altered"])
def test_a_damaged_artefact_is_refused_and_the_old_model_goes_on(worker: Worker, harm: str) -> None:
    worker.champion.catch_up([worker.publish(1)])
    damaged = worker.publish(2)
    path = worker.damage(2)
    content = path.read_bytes()
    path.write_bytes(content[:-1] if harm == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    worker.champion.follow([damaged])
    assert worker.served == [1]
    assert worker.champion.refused == 1


@pytest.mark.parametrize("value", [b"", b"no manifest", b'{"format": 2}'])
def test_a_malformed_manifest_is_refused(worker: Worker, value: bytes) -> None:
    worker.champion.follow([Announcement(value)])
    assert worker.champion.refused == 1


def test_a_path_outside_the_store_is_refused(worker: Worker) -> None:
    manifest, _ = TinyModel(1, ["a", "b", "c"]).artefact()
    worker.champion.follow([announced(manifest.model_copy(update={"path": "../1"}))])
    assert worker.champion.refused == 1


def test_a_worker_that_starts_under_a_bad_champion_serves_the_one_before(worker: Worker) -> None:
    good, bad = worker.publish(1), worker.publish(2)
    worker.damage(2).unlink()
    worker.champion.catch_up([good, bad])
    assert worker.served == [1]
    worker.now_s = 60.0
    worker.champion.follow([])
    assert (worker.served, worker.champion.refused) == ([1], 1)


@pytest.mark.parametrize("announced", [[], [Announcement(b"no manifest")], [Announcement(None)]])
def test_a_start_without_a_readable_announcement_waits_for_nothing(worker: Worker, announced: list[Any]) -> None:
    worker.champion.catch_up(announced)
    assert worker.champion.ready


class HttpError(Exception):
    """As the packages of object stores raise, which know no OSError."""


@pytest.mark.parametrize("error", [ConnectionError("no route to host"), HttpError()])
def test_a_start_waits_while_no_model_can_be_read(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    announced = [worker.publish(1), worker.publish(2)]
    with monkeypatch.context() as outage:
        outage.setattr(ArtefactStore, "read", no_answer(error))
        worker.champion.catch_up(announced)
        worker.now_s = 1000.0
        worker.champion.follow([])
    assert not worker.champion.ready
    worker.now_s = 2000.0
    worker.champion.follow([])
    assert worker.champion.ready
    assert (worker.served, worker.champion.refused) == ([2], 0)


def test_a_start_waits_a_minute_for_a_mount(worker: Worker) -> None:
    announced = worker.publish(1)
    mounted = worker.directory.rename(worker.directory.with_name("elsewhere"))
    worker.champion.catch_up([announced])
    worker.now_s = 59.0
    worker.champion.follow([])
    assert not worker.champion.ready
    mounted.rename(worker.directory)
    worker.now_s = 62.0
    worker.champion.follow([])
    assert (worker.served, worker.champion.refused) == ([1], 0)


def test_files_that_stay_missing_are_refused_after_a_minute(worker: Worker) -> None:
    announced = [worker.publish(1), worker.publish(2)]
    worker.directory.rename(worker.directory.with_name("elsewhere"))
    worker.champion.catch_up(announced)
    worker.now_s = 60.0
    worker.champion.follow([])
    assert worker.champion.ready
    assert (worker.served, worker.champion.refused) == ([], 2)


def test_a_model_that_was_given_up_is_served_once_its_files_are_there(worker: Worker) -> None:
    announced = worker.publish(1)
    mounted = worker.directory.rename(worker.directory.with_name("elsewhere"))
    worker.champion.catch_up([announced])
    worker.now_s = 60.0
    worker.champion.follow([])
    mounted.rename(worker.directory)
    worker.now_s = 120.0
    worker.champion.follow([])
    assert (worker.served, worker.champion.refused, worker.champion.unread) == ([1], 1, 2)


def test_a_mount_that_is_away_when_a_model_is_announced_delays_it(worker: Worker) -> None:
    worker.champion.catch_up([worker.publish(1)])
    announced = worker.publish(2)
    mounted = worker.directory.rename(worker.directory.with_name("elsewhere"))
    worker.champion.follow([announced])
    assert worker.champion.ready
    mounted.rename(worker.directory)
    worker.now_s = 1.0
    worker.champion.follow([])
    assert (worker.served, worker.champion.refused, worker.champion.unread) == ([1, 2], 0, 1)


def test_a_model_announced_meanwhile_ends_the_wait_of_the_start(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = worker.publish(1)
    with monkeypatch.context() as outage:
        outage.setattr(ArtefactStore, "read", no_answer())
        worker.champion.catch_up([first])
    worker.champion.follow([worker.publish(2)])
    worker.now_s = 1000.0
    worker.champion.follow([])
    assert worker.champion.ready
    assert worker.served == [2]


def test_a_withdrawn_champion_stays_in_service(worker: Worker) -> None:
    worker.champion.catch_up([worker.publish(1)])
    worker.champion.follow([Announcement(None)])
    assert worker.served == [1]


def test_an_unreachable_store_is_asked_again_until_it_answers(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    champion = worker.publish(1)
    with monkeypatch.context() as outage:
        outage.setattr(ArtefactStore, "read", no_answer())
        worker.champion.catch_up([champion])
        worker.now_s = 1.0
        worker.champion.follow([])
    worker.now_s = 2.0
    worker.champion.follow([])
    assert worker.served == []  # the second pause is longer
    worker.now_s = 3.0
    worker.champion.follow([])
    assert worker.served == [1]
    assert worker.champion.refused == 0


def test_a_refused_artefact_is_not_asked_for_again(worker: Worker) -> None:
    champion = worker.publish(1)
    worker.damage(1).write_bytes(b"")
    worker.champion.follow([champion])
    worker.now_s = 1000.0
    worker.champion.follow([])
    assert (worker.champion.refused, worker.champion.unread) == (1, 0)


def test_a_missing_artefact_counts_as_refused_once(worker: Worker) -> None:
    worker.champion.catch_up([worker.publish(1)])
    missing = worker.publish(2)
    worker.damage(2).unlink()
    for worker.now_s in (0.0, 59.0, 200.0, 300.0):
        worker.champion.follow([missing] if not worker.now_s else [])
    assert (worker.served, worker.champion.refused) == ([1], 1)


def test_a_new_champion_ends_the_wait_for_one_that_is_out_of_reach(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = worker.publish(1), worker.publish(2)
    with monkeypatch.context() as outage:
        outage.setattr(ArtefactStore, "read", no_answer())
        worker.champion.follow([first])
    worker.champion.follow([second])
    worker.now_s = 1000.0
    worker.champion.follow([])
    assert worker.served == [2]


def test_an_older_model_that_serves_meanwhile_does_not_end_the_wait_for_the_champion(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newest = worker.publish(1), worker.publish(2)
    read = ArtefactStore.read
    with monkeypatch.context() as outage:
        outage.setattr(
            ArtefactStore, "read", lambda store, m: no_answer()(store, m) if m.version == 2 else read(store, m)
        )
        worker.champion.catch_up([older, newest])
    worker.now_s = 1.0
    worker.champion.follow([])
    assert worker.served == [1, 2]
