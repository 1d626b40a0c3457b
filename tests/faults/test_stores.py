"""A worker's stores deleted, damaged, read-only and without room: built again, refused, or gone on with."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.settings import FAILED, Settings
from tests.faults.world import World
from tests.kafka.stream import send_events
from tests.kafka.worker_process import WorkerProcess


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> World:
    return World(settings, tmp_path)


def last(store: Path, pattern: str) -> Path:
    """The newest file of a kind."""
    return max(store.glob(pattern))


def cut(pattern: str, kept: float) -> Callable[[Path], None]:
    """Keep only this part of the newest file of a kind."""

    def harm(store: Path) -> None:
        file = last(store, pattern)
        os.truncate(file, int(file.stat().st_size * kept))

    return harm


def alter(store: Path) -> None:
    """Change a byte in each block of a file of records."""
    file = last(store, "*.sst")
    content = bytearray(file.read_bytes())
    for place in range(50, len(content) * 9 // 10, 1000):
        content[place] ^= 1
    file.write_bytes(content)


def remove(pattern: str) -> Callable[[Path], None]:
    """Remove the newest file of a kind."""
    return lambda store: last(store, pattern).unlink()


REFUSED = {
    "records cut": cut("*.sst", 0.5),
    "records altered": alter,
    "manifest cut": cut("MANIFEST-*", 0.9),
    "current cut": cut("CURRENT", 0.5),
    "current gone": remove("CURRENT"),
}


def test_a_damaged_store_is_refused_with_the_command_that_lets_it_be_built_again(world: World) -> None:
    world.work()
    world.lose_stores()
    with world.working() as worker:  # its records were read from the changelog into a file, what came later is in a log
        worker.kill()
    whole = world.stores.rename(world.directory / "whole")
    store = world.stores / "0"
    for name, harm in REFUSED.items():
        shutil.copytree(whole, world.stores)
        harm(store)
        refusal = world.refusal()
        assert refusal.startswith(f"{store} is damaged, `rm -r {store}` "), name
        world.obey(refusal)
        assert not store.exists()
        if name != [*REFUSED][-1]:
            world.lose_stores()
    world.work()
    assert world.audit().clean


def test_a_log_of_a_store_that_was_cut_short_costs_nothing(world: World) -> None:
    with world.working() as worker:
        worker.kill()
    for partition in range(world.settings.partitions):
        cut("*.log", 0.4)(world.stores / str(partition))
    world.work()
    assert world.audit().clean


def test_stores_deleted_under_a_running_worker_end_it_at_last_and_are_built_again(world: World) -> None:
    with world.working() as worker:
        shutil.rmtree(world.data_dir)
        send_events(world.settings, 100)
        assert worker.stop() == FAILED
        assert "Traceback" not in worker.output
        assert "No such file" in worker.wait_for("the worker fails and ends")["error"]
    world.work()
    assert world.audit().clean


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no room."""
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

    def remount(self, how: str) -> None:
        """Change how it may be used."""
        _mount("-o", f"remount,{how}", str(self.path))


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    _mount("-t", "tmpfs", "-o", "size=8m", "none", str(path))
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk_ends_the_worker_until_there_is_room_and_a_read_only_one_is_refused(
    world: World, disk: Disk
) -> None:
    world.data_dir = disk.path
    with world.working() as worker:
        disk.fill()
        send_events(world.settings, 200)
        assert worker.wait() == FAILED
        assert "No space left on device" in worker.wait_for("the worker fails and ends")["error"]
    with WorkerProcess(world.settings, world.directory, data_dir=disk.path) as worker:
        assert worker.wait() == FAILED
        assert "No space left on device" in worker.output
    disk.empty()
    world.work()
    assert world.audit().clean
    disk.remount("ro")
    refusal = world.refusal()
    assert "cannot be written, make it writable or set another data_dir" in refusal
    assert "Read-only file system" in refusal
    disk.remount("rw")
    world.work()
    assert world.audit().clean


def test_a_data_dir_that_cannot_be_made_is_refused(world: World) -> None:
    world.data_dir.write_bytes(b"")
    assert world.refusal().startswith(f"data_dir {world.data_dir} cannot be used: ")
