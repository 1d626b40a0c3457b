import itertools
import sys
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from schemas.artefact import CATALOGUE, ITEMS, MANIFEST, MAX_MANIFEST_BYTES, PROBES, STEP, Manifest
from schemas.artefact_store import Announcement, ArtefactStore, described
from schemas.malformed import Malformed
from schemas.settings import Refused

FILES = {STEP: b"graph", CATALOGUE: b"catalogue", ITEMS: b"items", PROBES: b""}
_numbers = itertools.count()

outside = pytest.mark.parametrize(
    "path",
    [
        "../x",
        "..",
        ".",
        "/abs",
        "a//b",
        "a/",
        "a\\b",
        "a/../../b",
        "a/./b",
        "a\0b",
        "a*",
        "a?",
        "[a]",
        "~",
        "c:/x",
        "é",
    ],
)


class FullDisc(MemoryFileSystem):
    """A file system that has room for `room` more files and then cuts a file short."""

    protocol = "fulldisc"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    room = 0

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if FullDisc.room == 0:
            super().pipe_file(path, value[:1], mode, **options)
            raise OSError(28, "No space left on device")
        FullDisc.room -= 1
        super().pipe_file(path, value, mode, **options)


fsspec.register_implementation(FullDisc.protocol, FullDisc)


def manifest(files: dict[str, bytes] = FILES, path: str = "7", version: int = 7) -> Manifest:
    return Manifest(version=version, path=path, files=described(files), items=1, width=1, state=1)


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtefactStore:
    return ArtefactStore(str(tmp_path / "art") if request.param == "local" else f"memory://art{next(_numbers)}")


def test_what_is_written_is_read(store: ArtefactStore):
    store.write(FILES, manifest())
    assert store.read(manifest()) == FILES


def test_an_artefact_may_lie_deeper(store: ArtefactStore):
    store.write(FILES, manifest(path="team.a/model-1/7_b"))
    assert store.read(manifest(path="team.a/model-1/7_b")) == FILES


def test_manifests_come_oldest_first(store: ArtefactStore):
    for version in (9, 10, 8):
        store.write(FILES, manifest(path=str(version), version=version))
    assert [found.version for found in store.manifests()] == [8, 9, 10]


def test_a_store_that_does_not_exist_yet_is_empty(store: ArtefactStore):
    assert store.manifests() == []


def test_an_artefact_is_never_overwritten(store: ArtefactStore):
    store.write(FILES, manifest())
    with pytest.raises(FileExistsError):
        store.write(FILES | {STEP: b"other"}, manifest(FILES | {STEP: b"other"}))
    assert store.read(manifest()) == FILES


def test_files_that_the_manifest_does_not_describe_are_refused_before_anything_is_written(store: ArtefactStore):
    with pytest.raises(Malformed, match=r"manifest\.files"):
        store.write(FILES | {STEP: b"other"}, manifest())
    store.write(FILES, manifest())


@pytest.mark.parametrize("room", range(len(FILES) + 1))
def test_a_write_that_fails_at_any_file_leaves_nothing(room: int):
    store = ArtefactStore(f"fulldisc://art{next(_numbers)}")
    FullDisc.room = 2 * len(FILES)
    store.write(FILES, manifest(path="6", version=6))
    FullDisc.room = room
    with pytest.raises(OSError, match="No space left"):
        store.write(FILES, manifest())
    assert [found.version for found in store.manifests()] == [6]
    FullDisc.room = 2 * len(FILES)
    store.write(FILES, manifest())
    assert store.read(manifest()) == FILES


def test_a_local_write_that_fails_leaves_nothing(tmp_path: Path):
    files = FILES | {f"{'a' * 300}.bin": b"its name is too long for the file system"}
    with pytest.raises(OSError, match="too long"):
        ArtefactStore(str(tmp_path)).write(files, manifest(files))
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_is_written_last(tmp_path: Path):
    ArtefactStore(str(tmp_path)).write(FILES, manifest())
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "7").iterdir()}
    assert written.pop(MANIFEST) >= max(written.values())
    (tmp_path / "7" / MANIFEST).unlink()
    assert ArtefactStore(str(tmp_path)).manifests() == []


@pytest.mark.parametrize("content", [b"", b"grap", b"graph+", b"Graph"])
def test_a_truncated_or_changed_file_is_malformed(tmp_path: Path, content: bytes):
    store = ArtefactStore(str(tmp_path))
    store.write(FILES, manifest())
    (tmp_path / "7" / STEP).write_bytes(content)
    with pytest.raises(Malformed, match=r"7/step\.onnx: must be 5 bytes"):
        store.read(manifest())


def test_a_missing_file_is_not_found(store: ArtefactStore):
    with pytest.raises(FileNotFoundError):
        store.read(manifest())


@outside
def test_no_path_outside_the_store_is_written(store: ArtefactStore, path: str):
    with pytest.raises(Malformed, match=r"manifest\.path"):
        store.write(FILES, manifest(path=path))


@outside
def test_no_path_outside_the_store_is_read(tmp_path: Path, path: str):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Malformed, match=r"manifest\.path"):
        ArtefactStore(str(tmp_path / "art")).read(manifest(path=path))


@pytest.mark.parametrize("linked", ["7", f"7/{STEP}"])
def test_no_link_leads_out_of_the_store(tmp_path: Path, linked: str):
    store, outside = ArtefactStore(str(tmp_path / "art")), tmp_path / "outside"
    store.write(FILES, manifest())
    place = tmp_path / "art" / linked
    place.rename(outside)
    place.symlink_to(outside)
    with pytest.raises(Malformed, match="must not be a link out of the artefact store"):
        store.read(manifest())


def test_a_store_may_itself_be_reached_by_a_link(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "art").symlink_to(tmp_path / "disk")
    store = ArtefactStore(str(tmp_path / "art"))
    store.write(FILES, manifest())
    assert store.read(manifest()) == FILES


def test_a_file_of_another_size_is_not_read_into_memory(store: ArtefactStore, monkeypatch: pytest.MonkeyPatch):
    store.write(FILES, manifest())
    monkeypatch.setattr(store._fs, "cat_file", lambda *_: pytest.fail("was read"))
    other = manifest(FILES | {STEP: b"graph and more"})
    with pytest.raises(Malformed, match=r"7/step\.onnx: must be 14 bytes"):
        store.read(other)


def test_a_manifest_that_is_too_large_is_named_and_not_read(store: ArtefactStore):
    store.write(FILES, manifest())
    store._fs.makedirs(f"{store._root}/8")
    store._fs.pipe_file(f"{store._root}/8/{MANIFEST}", b" " * (MAX_MANIFEST_BYTES + 1))
    found = store.contents()
    assert found.manifests == [manifest()]
    assert found.broken == {f"8/{MANIFEST}": f"size: must be at most {MAX_MANIFEST_BYTES} bytes, got 1000001"}


def test_an_unknown_file_system_is_refused():
    with pytest.raises(Refused, match="artefact store s4://x cannot be opened: Protocol not known: s4"):
        ArtefactStore("s4://x")


def test_a_file_system_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(Refused, match="artefact store s3://x cannot be opened: Install s3fs"):
        ArtefactStore("s3://x")


def test_a_broken_manifest_is_named_and_hides_no_other(store: ArtefactStore):
    store.write(FILES, manifest())
    store._fs.makedirs(f"{store._root}/8")
    store._fs.pipe_file(f"{store._root}/8/{MANIFEST}", b"{")
    found = store.contents()
    assert (found.manifests, found.broken.keys()) == ([manifest()], {f"8/{MANIFEST}"})
    assert store.manifests() == [manifest()]


def test_what_is_removed_is_gone(store: ArtefactStore):
    store.write(FILES, manifest())
    store.remove(manifest())
    assert store.manifests() == []
    store.write(FILES, manifest())


def test_announcements_are_kept_in_their_order_and_broken_ones_named(store: ArtefactStore):
    noted = [Announcement(version=version, at_ms=at_ms, by="run") for version, at_ms in ((7, 100), (6, 99), (7, 1000))]
    for announcement in noted:
        store.note(announcement)
    store._fs.pipe_file(f"{store._root}/announcements/5.json", b"")
    found = store.contents()
    assert [(one.version, one.at_ms) for one in found.announcements] == [(6, 99), (7, 100), (7, 1000)]
    assert found.broken.keys() == {"announcements/5.json"}
    assert found.manifests == []
