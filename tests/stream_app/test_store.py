import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from stream_app.store import Store, _takes_direct_writes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "0"


def kill_after(statements: str, path: Path, lines: int = 1) -> list[str]:
    """Run `statements` on a store in another process and kill that after it has printed `lines` lines."""
    source = (
        "import sys, pathlib\nfrom stream_app.store import Store\n"
        f"store = Store(pathlib.Path(sys.argv[1]))\n{statements}\nprint('done', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", source, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        printed = [process.stdout.readline().strip() for _ in range(lines)]
        process.kill()
    assert process.returncode == -9
    return printed


def test_a_new_store_is_empty_and_starts_at_0(path: Path):
    store = Store(path)
    assert (store.changelog_position, store.input_position, store.identity) == (0, 0, None)
    assert store.get([b"u"]) == [None]
    assert list(store.items()) == []


def test_records_positions_and_identity_survive_reopening(path: Path):
    store = Store(path)
    store.write({b"u": b"1", b"v": b"2"}, 7, 9)
    store.identity = b"topics"
    store.close()
    store = Store(path)
    assert (store.changelog_position, store.input_position, store.identity) == (7, 9, b"topics")
    assert store.get([b"v", b"w", b"u"]) == [b"2", None, b"1"]


def test_none_deletes_a_record(path: Path):
    store = Store(path)
    store.write({b"u": b"1", b"v": b"2"}, 1)
    store.write({b"u": None, b"never": None}, 2)
    assert list(store.items()) == [(b"v", b"2")]


def test_a_write_without_an_input_position_keeps_the_one_before(path: Path):
    store = Store(path)
    store.write({}, 1, 5)
    store.write({b"u": b"1"}, 2)
    assert (store.changelog_position, store.input_position) == (2, 5)


def test_user_keys_never_meet_the_stores_own(path: Path):
    store = Store(path)
    users = {
        b"changelog": b"1",
        b"input": b"2",
        b"identity": b"3",
        b"\x00changelog": b"4",
        b"\x00": b"5",
        b"\xff": b"6",
    }
    store.write(users, 7, 8)
    store.identity = b"topics"
    assert dict(store.items()) == users
    assert store.get(list(users)) == list(users.values())
    assert (store.changelog_position, store.input_position, store.identity) == (7, 8, b"topics")


def test_no_keys_give_no_values(path: Path):
    assert Store(path).get([]) == []


def test_a_store_has_one_owner_at_a_time(path: Path):
    first = Store(path)
    with pytest.raises(OSError, match="another worker runs with this worker id"):
        Store(path)
    first.close()
    Store(path).close()


def test_logged_writes_survive_a_kill(path: Path):
    kill_after("store.write({b'u': b'1'}, 7, 9)", path)
    store = Store(path)
    assert (store.changelog_position, store.input_position, store.get([b"u"])) == (7, 9, [b"1"])


def test_unlogged_writes_survive_a_kill_once_flushed(path: Path):
    kill_after("store.write({b'u': b'1'}, 7, logged=False)\nstore.flush()", path)
    store = Store(path)
    assert (store.changelog_position, store.get([b"u"])) == (7, [b"1"])


def test_unlogged_writes_are_lost_together_with_their_position_when_killed_before_the_flush(path: Path):
    kill_after("store.write({b'u': b'1'}, 5)\nstore.write({b'u': b'2', b'v': b'2'}, 7, 9, logged=False)", path)
    store = Store(path)
    assert (store.changelog_position, store.input_position) == (5, 0)
    assert store.get([b"u", b"v"]) == [b"1", None]


def test_a_flush_before_the_next_logged_write_keeps_both(path: Path):
    kill_after("store.write({b'u': b'1'}, 5, logged=False)\nstore.flush()\nstore.write({b'v': b'2'}, 6)", path)
    store = Store(path)
    assert store.changelog_position == 6
    assert store.get([b"u", b"v"]) == [b"1", b"2"]


@pytest.mark.parametrize("logged", [True, False])
def test_a_kill_at_any_moment_leaves_records_and_positions_of_one_batch(path: Path, logged: bool):
    keys = [f"u{n}".encode() for n in range(50)]
    printed = kill_after(
        "for n in range(1, 1_000_000):\n"
        f"    store.write({{b'u%d' % i: b'%d' % n for i in range(50)}}, n, 2 * n, logged={logged})\n"
        f"    if {not logged} and n % 10 == 0:\n"
        "        store.flush()\n"
        "    if n % 10 == 0:\n"
        "        print(n, flush=True)",
        path,
        lines=10,
    )
    store = Store(path)
    n = store.changelog_position
    assert n >= int(printed[-1]) == 100
    assert store.input_position == 2 * n
    assert store.get(keys) == [str(n).encode()] * len(keys)


def write_bulk(store: Store) -> None:
    store.begin_bulk()
    for number in range(12):
        store.write({b"u%d" % user: bytes([number]) for user in range(100)}, number + 1, logged=False)
        store.flush()


def unmerged(store: Store) -> int:
    return int(store._db.property_value("rocksdb.num-files-at-level0") or 0)


def await_merged(store: Store) -> None:
    deadline = time.monotonic() + 60
    while unmerged(store) > 4:  # from which RocksDB merges
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert store.get([b"u0", b"u99"]) == [b"\x0b", b"\x0b"]


def options(path: Path) -> list[str]:
    """Of the store as it is open now: whether it writes past the page cache, and whether it merges."""
    newest = max(path.glob("OPTIONS-*"), key=lambda file: int(file.name.removeprefix("OPTIONS-")))
    names = ("use_direct_io_for_flush_and_compaction=", "disable_auto_compactions=")
    lines = [line.strip() for line in newest.read_text().splitlines()]
    return [line.removeprefix(name) for name in names for line in lines if line.startswith(name)]


def test_only_a_bulk_goes_past_the_page_cache(path: Path):
    store = Store(path)
    assert options(path) == ["false", "false"]
    store.begin_bulk()
    assert options(path) == [str(_takes_direct_writes(path)).lower(), "true"]
    store.end_bulk()
    assert options(path) == ["false", "true"]
    store.merge_again()
    assert options(path) == ["false", "false"]
    store.close()


def test_a_bulk_is_merged_when_it_is_over(path: Path):
    store = Store(path)
    write_bulk(store)
    store.end_bulk()
    assert unmerged(store) >= 12
    store.merge_again()
    await_merged(store)
    assert store.changelog_position == 12
    store.close()


def test_a_store_that_was_killed_in_a_bulk_merges_when_it_is_opened(path: Path):
    kill_after("from tests.stream_app.test_store import write_bulk; write_bulk(store)", path)
    store = Store(path)
    await_merged(store)
    store.write({b"u0": b"later"}, 13)
    assert store.get([b"u0"]) == [b"later"]
    store.close()
    assert Store(path).changelog_position == 13


def test_a_store_in_memory_takes_a_bulk_whether_or_not_it_can_write_past_the_page_cache():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        store = Store(Path(name) / "0")
        write_bulk(store)
        store.end_bulk()
        assert store.get([b"u0"]) == [b"\x0b"]
        store.close()


def test_a_store_that_cannot_be_opened_for_a_bulk_says_so_and_can_be_closed(path: Path):
    store = Store(path)
    store.write({b"u": b"record"}, 1)
    (path / "CURRENT").unlink()
    (path / "CURRENT").mkdir()
    with pytest.raises(OSError, match="cannot be opened"):
        store.begin_bulk()
    store.close()
