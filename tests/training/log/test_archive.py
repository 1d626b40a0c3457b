import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Thread
from uuid import uuid4

import fsspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.malformed import Malformed
from schemas.settings import Refused
from tests.training.log.test_columns import Did, assert_same, did, plainly
from tests.training.records import Record, event, messages, tombstone
from training.log import archive as module
from training.log.archive import Archive
from training.log.columns import decoded, gather


@pytest.fixture(autouse=True, scope="module")
def small_windows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW", 64)
        yield


@pytest.fixture
def archive() -> Iterator[Archive]:
    with in_memory() as made:
        yield made


@pytest.fixture
def on_disc(tmp_path: Path) -> Archive:
    return Archive(str(tmp_path), "interactions", "present")


@contextmanager
def in_memory() -> Iterator[Archive]:
    url = f"memory://{uuid4().hex}"
    try:
        yield Archive(url, "interactions", "present")
    finally:
        fsspec.filesystem("memory").rm(url, recursive=True)


def write(archive: Archive, records: list[Record], begin: int = 0, end: int | None = None, partition: int = 0) -> None:
    """Records by offset, those of begin..end-1, in one go."""
    end = len(records) if end is None else end
    for record, offset in zip(records, range(len(records)), strict=True):
        record.at = offset
    archive.write(partition, begin, end, decoded(messages(records[begin:end])).table)


def extend(archive: Archive, records: list[Record], end: int, partition: int = 0) -> None:
    """What a retraining that sees the log up to `end` adds."""
    for begin, stop in archive.missing(partition, 0, end):
        write(archive, records, begin, stop, partition)


def offsets(archive: Archive, end: int = 10**9, partition: int = 0) -> list[int]:
    found: list[int] = archive.read(partition, end, archive.tombstones())["offset"].to_pylist()
    return found


def spans(archive: Archive) -> list[tuple[int, int]]:
    return [(piece.begin, piece.end) for piece in archive.pieces(0)]


@settings(max_examples=30)
@given(st.lists(did, max_size=80), st.data())
def test_a_log_read_in_increments_gives_the_histories_of_one_plain_pass(done: list[Did], data: st.DataObject) -> None:
    """Now and then a second job, which saw the archive before the last increment, writes what it read."""
    records = [one.record(at) for at, one in enumerate(done)]
    with in_memory() as archive:
        archive.write(1, 0, 1, decoded([]).table)
        for end in sorted({*data.draw(st.lists(st.integers(0, len(done)), max_size=5)), len(done)}):
            stale = archive.missing(0, 0, data.draw(st.integers(0, end)))
            extend(archive, records, end)
            steps = data.draw(st.permutations(["read", "tidy", "write"]))
            for step in steps[: data.draw(st.integers(0, 3))]:
                if step == "read":
                    archive.read(0, end, archive.tombstones())
                elif step == "tidy":
                    archive.tidy(0)
                else:
                    for begin, stop in stale:
                        write(archive, records, begin, stop)
        plain = plainly([done])
        assert_same(gather([archive.read(0, len(done), archive.tombstones())]).histories, plain.build())
        archive.tidy(0)
        forgotten_at = {one.user: at for at, one in enumerate(done) if one.item is None}
        for user in {one.user for one in done}:
            left = [one for one in done[forgotten_at.get(user, 0) :] if one.user == user and one.item is not None]
            assert archive.events_of(user) == len(left)


def test_what_is_missing_is_cut_at_the_borders_of_windows(archive: Archive) -> None:
    assert archive.missing(0, 10, 200) == [(10, 64), (64, 128), (128, 192), (192, 200)]
    assert archive.missing(0, 0, 0) == []
    write(archive, [event("a", "x")] * 100, 30, 40)
    write(archive, [event("a", "x")] * 100, 60, 70)
    assert archive.missing(0, 0, 100) == [(0, 30), (40, 60), (70, 100)]
    assert archive.missing(0, 35, 65) == [(40, 60)]
    assert archive.missing(0, 65, 68) == []
    assert (archive.end(0), archive.end(1)) == (70, 0)


def test_only_records_before_the_end_are_read(archive: Archive) -> None:
    extend(archive, [event("a", "x") for _ in range(100)], 100)
    assert offsets(archive, 70) == list(range(70))


def test_records_that_two_jobs_wrote_count_once_and_tidying_leaves_one_file(archive: Archive) -> None:
    records = [event("a", "x") for _ in range(60)]
    for begin, end in [(0, 30), (0, 20), (10, 40), (25, 60), (35, 60)]:
        write(archive, records, begin, end)
    assert offsets(archive) == list(range(60))
    archive.tidy(0)
    assert offsets(archive) == list(range(60))
    assert spans(archive) == [(0, 60)]


def test_many_small_increments_leave_few_files(archive: Archive) -> None:
    records = [event("a", "x") for _ in range(94)]
    for end in range(1, 95):
        extend(archive, records, end)
        archive.tidy(0)
    assert spans(archive) == [(0, 64), (64, 80), (80, 88), (88, 92), (92, 94)]
    assert offsets(archive) == list(range(94))


def test_a_file_without_any_valid_record_moves_the_position_on(archive: Archive) -> None:
    extend(archive, [Record(b"a", b"{") for _ in range(5)], 5)
    assert (archive.missing(0, 0, 5), offsets(archive)) == ([], [])


def test_a_merge_does_not_reach_over_a_hole(archive: Archive) -> None:
    records = [event("a", "x") for _ in range(60)]
    for begin, end in [(0, 20), (30, 50)]:
        write(archive, records, begin, end)
    archive.tidy(0)
    assert spans(archive) == [(0, 20), (30, 50)]
    assert archive.missing(0, 0, 60) == [(20, 30), (50, 60)]


def test_forgetting_takes_the_user_out_of_the_files(on_disc: Archive, tmp_path: Path) -> None:
    records = [event("gone", "secret"), event("b", "x"), tombstone("gone"), event("b", "y"), event("gone", "new")]
    write(on_disc, records, 0, 2)
    assert on_disc.events_of("gone") == 1
    write(on_disc, records, 2, 4)
    assert offsets(on_disc) == [1, 2, 3]
    assert on_disc.events_of("gone") == 0
    for file in tmp_path.rglob("*.parquet"):
        found = pq.ParquetFile(file, read_dictionary=["user_id", "item_id"]).read()
        named = [name for column in ("user_id", "item_id") for name in found[column].chunk(0).dictionary.to_pylist()]
        assert {"gone", "secret"} & set(named) == set()
        assert b"gone" not in file.read_bytes()
    write(on_disc, records, 4, 5)
    assert offsets(on_disc) == [1, 2, 3, 4]
    assert on_disc.events_of("gone") == 1


def test_who_is_forgotten_is_forgotten_on_deleted_topics_of_the_same_name_as_well(tmp_path: Path) -> None:
    older = Archive(str(tmp_path), "interactions", "older")
    other = Archive(str(tmp_path), "other", "present")
    for one in (older, other):
        write(one, [tombstone("a"), event("a", "x"), event("b", "x")])
    present = Archive(str(tmp_path), "interactions", "present")
    write(present, [event("b", "x"), tombstone("a")])
    assert present.events_of("a") == 1
    present.forget_in_older_topics(present.tombstones())
    assert (present.events_of("a"), present.events_of("b"), other.events_of("a")) == (0, 2, 1)
    assert offsets(present) == [0, 1]


def test_a_topic_id_with_a_slash_is_one_directory(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path), "interactions", "a/b+c")
    write(archive, [event("a", "x")])
    assert (archive.events_of("a"), offsets(archive)) == (1, [0])
    assert [path.name for path in (tmp_path / "interactions").iterdir()] == ["a_b-c"]


def test_a_reader_finds_every_record_once_while_another_job_merges(on_disc: Archive, tmp_path: Path) -> None:
    records = [event("a", "x") for _ in range(40)]

    def grow() -> None:
        other = Archive(str(tmp_path), "interactions", "present")
        for end in range(1, 41):
            extend(other, records, end)
            other.tidy(0)

    other = Thread(target=grow)
    other.start()
    readings = 0
    while other.is_alive() or not readings:
        end = on_disc.end(0)
        assert offsets(on_disc, end) == list(range(end))
        readings += 1
    other.join()
    assert offsets(on_disc) == list(range(40))
    assert readings > 1


def test_a_file_that_was_never_completed_is_not_read_and_goes_after_a_day(on_disc: Archive, tmp_path: Path) -> None:
    extend(on_disc, [event("a", "x") for _ in range(10)], 10)
    (complete,) = tmp_path.rglob("*.parquet")
    half = complete.parent / f".{uuid4().hex}.tmp"
    half.write_bytes(complete.read_bytes()[:100])
    on_disc.tidy(0)
    assert (offsets(on_disc), half.exists()) == (list(range(10)), True)
    before = (datetime.now() - timedelta(days=2)).timestamp()
    os.utime(half, (before, before))
    on_disc.tidy(0)
    assert (offsets(on_disc), half.exists()) == (list(range(10)), False)


def test_a_write_that_fails_leaves_what_was_there(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [event("a", "x") for _ in range(60)]
    for begin in range(0, 60, 10):
        write(archive, records, begin, begin + 10)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", fail)
        with pytest.raises(OSError, match="no space"):
            archive.tidy(0)
    assert offsets(archive) == list(range(60))


def test_a_damaged_file_is_named_and_once_removed_its_range_is_missing(on_disc: Archive, tmp_path: Path) -> None:
    records = [event("a", "x") for _ in range(100)]
    extend(on_disc, records, 100)
    file = min(tmp_path.rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(Malformed, match=f"{file.name}: must be a Parquet file; remove it"):
        offsets(on_disc)
    file.unlink()
    assert on_disc.missing(0, 0, 100) == [(0, 64)]


def test_a_wrong_url_is_refused() -> None:
    with pytest.raises(Refused, match="archive s4://events cannot be opened"):
        Archive("s4://events", "interactions", "present")
