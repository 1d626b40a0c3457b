import json
from pathlib import Path

import pytest

from schemas.artefact import CATALOGUE, ITEMS, PROBES, STEP, Gate, Manifest
from schemas.artefact_store import Announcement, ArtefactStore, described
from schemas.settings import DONE, REFUSED, run_command
from training.release.champion import Announced
from training.release.history import History, rows_of, timeline
from training.release.promote import Promote, Rollback

FILES = dict.fromkeys((STEP, CATALOGUE, ITEMS, PROBES), b"file")
NO_BROKER = "127.0.0.1:1"


def manifest(version: int, verdict: str = "accepted") -> Manifest:
    return Manifest(
        version=version,
        path=str(version),
        files=described(FILES),
        items=1700,
        width=1,
        state=1,
        metrics={"events": 90_000, "validation_recall_at_10": 0.19, "validation_ndcg_at_10": 0.1, "seconds": 46},
        gate=Gate.model_validate({"verdict": verdict, "reason": "figures"}),
    )


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.release.champion.ANSWER_S", 0.2)


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    store = ArtefactStore(str(tmp_path))
    for version, verdict in ((1_795_000_000_000, "accepted"), (1_795_100_000_000, "rejected")):
        store.write(FILES, manifest(version, verdict))
    store.note(Announcement(version=1_795_000_000_000, at_ms=1_795_000_060_000, by="run"))
    return store


def test_with_the_broker_away_the_store_is_shown_and_that_is_said(
    store: ArtefactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("history", History, ["--broker", NO_BROKER, "--artefact-store", store.url]) == DONE
    out, err = capsys.readouterr()
    assert f"broker {NO_BROKER} does not answer" in err
    _, first, second = out.splitlines()
    figures = ["1795000000000", "2026-11-18", "11:06", "accepted", "90,000", "1,700", "0.1900", "0.1000", "46.0"]
    assert first.split() == [*figures, "now,", "since", "2026-11-18", "11:07"]
    assert second.split()[3] == "rejected"


def test_a_broken_manifest_is_listed_and_hides_no_other(
    store: ArtefactStore, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "manifest.json").write_text('{"version": 5')
    (tmp_path / "announcements" / "1-2.json").write_text("")
    assert run_command("history", History, ["--broker", NO_BROKER, "--artefact-store", store.url, "--json"]) == DONE
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["version"] for row in told["models"]] == [1_795_000_000_000, 1_795_100_000_000]
    assert told["broken"].keys() == {"5/manifest.json", "announcements/1-2.json"}
    assert (told["broker"], told["champion"]) == (False, 1_795_000_000_000)


def test_an_empty_store_has_no_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("history", History, ["--broker", NO_BROKER, "--artefact-store", str(tmp_path / "none")]) == DONE
    assert capsys.readouterr().out.splitlines()[1:] == ["no models"]


def test_a_store_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").touch()
    options = ["--broker", NO_BROKER, "--artefact-store", str(tmp_path / "store")]
    for name, command in {"history": (History, []), "promote": (Promote, ["1"]), "rollback": (Rollback, [])}.items():
        assert run_command(name, command[0], [*command[1], *options]) == REFUSED
        assert capsys.readouterr().err.endswith("store is a file, and must be a directory\n")


def test_an_announcement_that_topic_and_store_both_have_is_one() -> None:
    noted = [Announcement(version=1, at_ms=10, by="run"), Announcement(version=2, at_ms=20, by="run")]
    on_topic = [Announced(manifest(2), 20), Announced(manifest(3), 30)]
    assert [(one.version, one.at_ms, one.by) for one in timeline(noted, on_topic)] == [
        (1, 10, "run"),
        (2, 20, "run"),
        (3, 30, ""),
    ]


def test_a_model_reigns_from_each_announcement_to_the_next() -> None:
    champions = [Announcement(version=v, at_ms=at, by="run") for v, at in ((1, 10), (2, 20), (1, 30))]
    rows = rows_of([manifest(1), manifest(3)], [Announced(manifest(2), 20)], champions)
    assert [(row["version"], row["in_store"], row["champion"]) for row in rows] == [
        (1, True, [{"since_ms": 10, "until_ms": 20}, {"since_ms": 30, "until_ms": None}]),
        (2, False, [{"since_ms": 20, "until_ms": 30}]),
        (3, True, []),
    ]
