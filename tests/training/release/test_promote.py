import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ops.kafka import LocalKafka
from ops.topics import admin, create
from schemas.artefact import CATALOGUE, Gate, Manifest
from schemas.artefact_store import Announcement, ArtefactStore
from schemas.settings import DONE, REFUSED, Settings
from schemas.topics import topics
from training.__main__ import main
from training.model.lrurec import LRURec, Shape
from training.release.artefact import Artefact, build
from training.release.champion import announce, announced
from training.release.promote import predecessors


@pytest.fixture(scope="module")
def kafka() -> Iterator[LocalKafka]:
    with LocalKafka() as broker:
        yield broker


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    torch.manual_seed(0)
    return build(LRURec(Shape(4, width=16, units=8)), list("abcd"), version_ms=1)


class Service:
    """A store with models 1 to 4, of which 3 was rejected, and the commands on them."""

    def __init__(self, settings: Settings, artefact: Artefact, capsys: pytest.CaptureFixture[str], patch: Any) -> None:
        self.settings, self._capsys, self._patch = settings, capsys, patch
        self.store = ArtefactStore(settings.artefact_store)
        self.manifests: dict[int, Manifest] = {}
        for version in (1, 2, 3, 4):
            figures = {"difference": -0.02, "low": -0.03, "high": -0.01, "champion": 2} if version == 3 else {}
            gate = Gate.model_validate({"verdict": "rejected" if version == 3 else "accepted", "reason": ""} | figures)
            changed = {"version": version, "path": str(version), "gate": gate}
            self.manifests[version] = artefact.manifest.model_copy(update=changed)
            self.store.write(artefact.files, self.manifests[version])

    def announce(self, *versions: int) -> None:
        for version in versions:
            announce(self.settings, self.store, self.manifests[version], "run")

    def command(self, *words: str) -> tuple[int, Any]:
        """Its exit status, and its JSON or the last line of its complaint."""
        s = self.settings
        options = ["--broker", s.broker, "--models", s.models, "--artefact-store", s.artefact_store, "--json"]
        self._patch.setattr("sys.argv", ["training", *words, *options])
        status = main()
        out, err = self._capsys.readouterr()
        return status, json.loads(out.splitlines()[-1]) if status == DONE else err.splitlines()[-1]

    def champion(self) -> int:
        return announced(self.settings)[-1].manifest.version


@pytest.fixture
def service(
    kafka: LocalKafka,
    artefact: Artefact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Service:
    monkeypatch.setattr("schemas.logs.configure", lambda _level: None)
    settings = Settings(broker=kafka.bootstrap, models=f"models-{tmp_path.name}"[:60], artefact_store=str(tmp_path))
    with admin(settings.broker) as client:
        create(client, [topic for topic in topics(settings) if topic.name == settings.models])
    return Service(settings, artefact, capsys, monkeypatch)


def test_a_promotion_replaces_the_champion_and_a_roll_back_takes_it_back(service: Service) -> None:
    service.announce(1, 4)
    assert service.command("promote", "2") == (DONE, {"version": 2, "replaced": 4})
    assert service.champion() == 2
    status, told = service.command("rollback")
    assert (status, told["version"], told["replaced"], told["chosen"]) == (DONE, 4, 2, "it was the champion before")
    status, told = service.command("rollback")
    assert (status, told["version"], service.champion()) == (DONE, 1, 1)
    status, history = service.command("history")
    assert (history["champion"], history["broker"]) == (1, True)
    assert [(one["version"], one["by"]) for one in history["champions"]] == [
        (1, "run"),
        (4, "run"),
        (2, "promote"),
        (4, "rollback"),
        (1, "rollback"),
    ]
    assert history["models"][3]["champion"][0]["until_ms"] is not None


def test_the_champion_is_not_announced_again(service: Service) -> None:
    service.announce(2)
    assert service.command("promote", "2") == (DONE, {"version": 2, "replaced": None})
    assert len(announced(service.settings)) == 1


def test_an_unknown_version_names_the_known_ones(service: Service) -> None:
    status, line = service.command("promote", "9")
    assert (status, line.rpartition("there are: ")[2]) == (REFUSED, "1, 2, 3, 4")


def test_a_rejected_model_needs_force(service: Service) -> None:
    status, line = service.command("promote", "3")
    assert status == REFUSED
    assert "was rejected, NDCG@10 -0.0200 [-0.0300, -0.0100] against model 2: --force" in line
    assert service.command("promote", "3", "--force")[0] == DONE
    assert service.champion() == 3


def test_a_damaged_model_is_not_promoted_and_passed_over_by_a_roll_back(service: Service) -> None:
    service.announce(1, 2, 4)
    path = Path(service.settings.artefact_store) / "2" / CATALOGUE
    path.write_bytes(path.read_bytes()[:-1])
    status, line = service.command("promote", "2", "--force")
    assert (status, "model 2 cannot be served" in line) == (REFUSED, True)
    assert service.command("rollback")[1]["version"] == 1


def test_a_broken_manifest_says_what_is_wrong_with_it(service: Service) -> None:
    (Path(service.settings.artefact_store) / "2" / "manifest.json").write_text("{}")
    status, line = service.command("promote", "2")
    assert (status, "model 2 is broken: manifest.version" in line) == (REFUSED, True)


def test_without_a_known_predecessor_the_newest_accepted_model_before_is_taken(service: Service) -> None:
    service.announce(4)
    status, told = service.command("rollback")
    assert (status, told["version"]) == (DONE, 2)
    assert "newest accepted model" in told["chosen"]


def test_without_a_champion_or_a_topic_there_is_nothing_to_roll_back(service: Service) -> None:
    status, line = service.command("rollback")
    assert (status, "has no champion to roll back from" in line) == (REFUSED, True)
    service.settings = service.settings.model_copy(update={"models": "nowhere"})
    status, line = service.command("rollback")
    assert (status, "topic nowhere does not exist" in line) == (REFUSED, True)


def champions(text: str) -> list[Announcement]:
    """`1r 2p`: 1 by run, then 2 by promote; b is a rollback."""
    by = {"r": "run", "p": "promote", "b": "rollback"}
    return [Announcement(version=int(w[:-1]), at_ms=n, by=by[w[-1]]) for n, w in enumerate(text.split())]


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        ("1r 2r 3r", [2, 1]),
        ("1r 2r 3r 2b", [1]),
        ("1r 2r 3r 1p", [3, 2]),
        ("1r 2r 3r 2b 4r", [2, 1]),
        ("1r 2r 2p", [1]),
        ("1r", []),
        ("2r 1b", []),
    ],
)
def test_a_roll_back_goes_to_what_reigned_before_and_never_to_what_was_rolled_back(
    past: str, expected: list[int]
) -> None:
    assert [version for version, _ in predecessors(champions(past), [])] == expected
