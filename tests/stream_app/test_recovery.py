import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from schemas.settings import Refused
from schemas.state import CHANGELOG_IDENTITY, StateRecord, decode_last_offset, encode
from stream_app import recovery
from stream_app.recovery import Progress, Replay, replay
from stream_app.store import Store

ROOT = Path(__file__).parents[2]
TOPICS = b"topics"


class WatchedStore(Store):
    """Remembers which users it was asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[bytes] = []

    def get(self, keys: list[bytes]) -> list[bytes | None]:
        self.asked += keys
        return super().get(keys)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(tmp_path / "0")


def record(last_offset: int) -> bytes:
    return encode(StateRecord(last_offset=last_offset))


def take(store: Store, *batches: Sequence[tuple[str, int | None]]) -> Replay:
    """Replay users and last offsets, None for a tombstone, at consecutive changelog offsets."""
    position, positioned = store.changelog_position, []
    for batch in batches:
        position += len(batch)
        positioned.append((position, [(user.encode(), None if at is None else record(at)) for user, at in batch]))
    return replay(store, 0, positioned, TOPICS, Progress())


def offsets(store: Store) -> dict[str, int]:
    return {key.decode(): decode_last_offset(value) for key, value in store.items()}


def test_records_in_the_order_of_the_log_are_taken_without_asking_the_store(store: WatchedStore):
    found = take(store, [("u", 1), ("v", 2)], [("w", 2), ("u", 5)], [("v", 5)])
    assert (found.records, found.stale, store.asked) == (5, [], [])
    assert offsets(store) == {"u": 5, "v": 5, "w": 2}


def test_only_users_whose_record_is_behind_an_earlier_one_are_asked_for(store: WatchedStore):
    found = take(store, [("u", 1), ("v", 9)], [("w", 3), ("v", 8), ("x", 10)])
    assert store.asked == [b"w", b"v"]
    assert found.stale == [b"v"]
    assert offsets(store) == {"u": 1, "v": 9, "w": 3, "x": 10}


def test_a_store_that_has_records_already_is_asked_for_every_user(store: WatchedStore):
    take(store, [("u", 7)])
    assert take(store, [("u", 6), ("v", 99)]).stale == [b"u"]
    assert store.asked == [b"u", b"v"]
    assert offsets(store) == {"u": 7, "v": 99}


def test_after_a_tombstone_any_record_counts(store: WatchedStore):
    found = take(store, [("u", 9), ("v", 9)], [("u", None)], [("u", 2)])
    assert found.stale == []
    assert offsets(store) == {"u": 2, "v": 9}


def test_the_identity_is_checked_and_kept_out_of_the_store(store: WatchedStore):
    assert replay(store, 0, [(1, [(CHANGELOG_IDENTITY, TOPICS)])], TOPICS, Progress()).identified
    assert offsets(store) == {}
    with pytest.raises(Refused, match="changelog partition 3 belongs to others, now there are topics"):
        replay(store, 3, [(2, [(CHANGELOG_IDENTITY, b"others")])], TOPICS, Progress())


def test_progress_says_how_far_how_fast_and_how_long_still(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(recovery.time, "monotonic", lambda: now)
    progress = Progress()
    progress.begin(1000)
    with capture_logs() as lines:
        now = 101.0
        progress.advance(100, 90, 1_000_000)
        now = 104.0
        progress.advance(100, 90, 1_000_000)
        assert progress.progressed_at == 104.0
        now = 120.0
        progress.advance(800, 800, 8_000_000)
        progress.end()
    assert lines == [
        {"event": "recovering", "log_level": "info", "percent": 20, "eta_s": 16.0}
        | {"records": 180, "per_s": 45, "mb_per_s": 0.5},
        {"event": "recovering", "log_level": "info", "percent": 100, "eta_s": 0.0}
        | {"records": 980, "per_s": 49, "mb_per_s": 0.5},
        {"event": "recovered", "log_level": "info", "seconds": 20.0, "records": 980, "per_s": 49, "mb_per_s": 0.5},
    ]


def test_nothing_is_said_when_there_was_nothing_to_recover():
    progress = Progress()
    with capture_logs() as lines:
        progress.begin(0)
        progress.end()
    assert lines == []


ENDLESS = """
import sys
from pathlib import Path
from schemas import logs
from schemas.state import StateRecord, encode
from stream_app.recovery import Progress, replay
from stream_app.store import Store

def batches(position):
    while True:
        numbers = range(position, position + 500)
        position += 500
        yield position, [(b"u%d" % n, encode(StateRecord(last_offset=n, state=bytes(4096)))) for n in numbers]
        print(position, flush=True)

logs.configure("INFO")  # to stderr
store = Store(Path(sys.argv[1]))
if store.changelog_position == 0:
    store.begin_bulk()
replay(store, 0, batches(store.changelog_position), b"topics", Progress())
"""


def test_a_recovery_that_is_killed_goes_on_where_its_disk_is_and_lacks_nothing(tmp_path: Path):
    position = -1
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path / "0")], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            begun = position
            enough = max(0, begun) + 30_000  # four write buffers, of which three may wait
            while (reached := int(process.stdout.readline())) < enough:
                pass
            process.kill()
        store = Store(tmp_path / "0")
        position = store.changelog_position
        assert max(0, begun) < position <= reached + 1_000
        assert offsets(store) == {f"u{n}": n for n in range(position)}
        store.close()
