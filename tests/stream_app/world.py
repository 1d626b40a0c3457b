"""A Kafka in memory, a consumer group, and workers that can be killed, frozen and fooled between any two steps.

A worker's step is everything it does to the outside: a send (which may stop half-way), a read of the changelog, a write
to its RocksDB, a commit. `World.reach` is called before each; there a worker may die, or wait while others go on.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from schemas import event, recommendation
from schemas.placement import partition_of
from schemas.recommendation import Recommendation
from stream_app import user_table
from stream_app.broker import Identity, NotOwner, Outgoing, Record
from stream_app.engine import Engine, store_directory
from stream_app.settings import WorkerSettings
from stream_app.store import Store
from tests.stream_app.tiny_model import TinyModel

PARTITIONS = 2
WINDOW = 4
LIST_LENGTH = 3
_WAIT_S = 30


class Killed(BaseException):
    """The process is gone: nothing after this point happened."""


class Entry(NamedTuple):
    """A changelog record; compaction leaves gaps in the offsets."""

    offset: int
    key: bytes
    value: bytes | None


@dataclass
class Plan:
    """What befalls a worker: after `steps` more steps it is killed or frozen."""

    kill_after: int | None = None
    freeze_after: int | None = None
    only_states: bool = False
    """count no other steps than sending a state"""
    frozen: threading.Event = field(default_factory=threading.Event)
    thawed: threading.Event = field(default_factory=threading.Event)
    killed_on_thaw: bool = False


class World:
    """The cluster: topics, group and disks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log: dict[int, list[Record]] = {p: [] for p in range(PARTITIONS)}
        self.changelog: dict[int, list[Entry]] = {p: [] for p in range(PARTITIONS)}
        self.end: dict[int, int] = dict.fromkeys(range(PARTITIONS), 0)
        self.lists: dict[int, list[tuple[bytes, Recommendation | None]]] = {p: [] for p in range(PARTITIONS)}
        self.dead_letters: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
        self.committed: dict[int, int] = dict.fromkeys(range(PARTITIONS), 0)
        self.owner: dict[int, str | None] = dict.fromkeys(range(PARTITIONS))
        self.models: dict[int, TinyModel] = {}
        self.champion: TinyModel | None = None
        self.first_model_at: dict[int, int] | None = None
        self.now_s = 0.0
        self.forget_offsets = 0
        """so many of the next delivered states are acknowledged without an offset"""
        self.lists_first = True
        self.workers: dict[str, Worker] = {}
        self.lock = threading.RLock()

    def produce(self, user: str, item: str | None, event_id: str | None = None) -> None:
        """An event, or a tombstone when there is no item."""
        partition = partition_of(user.encode(), PARTITIONS)
        log = self.log[partition]
        now_ms = int(1000 * (self.now_s + len(log)))
        value = None if item is None else event.encode(event.Event(user, item, now_ms, event_id=event_id))
        log.append(Record(len(log), user.encode(), value, now_ms))

    def produce_rubbish(self, partition: int) -> None:
        """A record that no one can read."""
        self.log[partition].append(Record(len(self.log[partition]), b"u", b"\xc1", 0))

    def compact(self, partition: int) -> None:
        """Keep the last record of each key."""
        last = {entry.key: entry for entry in self.changelog[partition]}
        self.changelog[partition] = [entry for entry in self.changelog[partition] if last[entry.key] is entry]

    def newest(self, partition: int) -> dict[bytes, bytes]:
        """What the changelog says of each user, as compaction would leave it."""
        compacted = {e.key: e.value for e in self.changelog[partition]}
        return {key: value for key, value in compacted.items() if value is not None and key[:1] != b"\xff"}


class Worker:
    """One process: an engine, its disk, and its place in the group."""

    def __init__(self, world: World, name: str, threads: int = 1, **own: Any) -> None:
        self.world = world
        self.name = name
        self.plan = Plan()
        self.settings = WorkerSettings(
            app="app",
            worker_id=name,
            data_dir=world.directory,
            history_length=WINDOW,
            list_length=LIST_LENGTH,
            rebase_steps=WINDOW,
            threads=threads,
            partitions=PARTITIONS,
            **own,
        )
        self.generation: dict[int, bool] = {}
        """partitions this process believes to own"""
        self.positions: dict[int, int] = {}
        self.engine = Engine(self.settings, WorkerBroker(self), self.confirm, clock=lambda: world.now_s)
        if world.champion is not None:
            self.engine.swap(world.champion.load())
        self.thread: threading.Thread | None = None
        self.outcome: BaseException | None = None

    # what the host does

    def own(self, partitions: set[int]) -> None:
        """What Faust calls after a rebalance."""
        for partition in range(PARTITIONS):
            if partition in partitions:
                self.world.owner[partition] = self.name
            elif self.world.owner[partition] == self.name:
                self.world.owner[partition] = None
        self.engine.own(partitions, {partition for partition in partitions if self.world.committed[partition]})
        self.positions = {partition: self.world.committed[partition] for partition in partitions}

    def work(self, limit: int) -> None:
        """Fetch at most `limit` records of each partition, process them, commit."""
        batches = {
            partition: self.world.log[partition][position : position + limit]
            for partition, position in self.positions.items()
            if position < len(self.world.log[partition])
        }
        if batches:
            self.engine.process(batches)
            for partition, records in batches.items():
                self.positions[partition] = records[-1].offset + 1
                self.reach()
                if not self.confirm(partition):
                    raise NotOwner(f"commit of {partition} refused")

    def rebase(self) -> None:
        """A slice of the background: with the budget of a round, which is one full history."""
        self.engine.rebase(budget_s=1.0)

    def rebase_all(self) -> None:
        """All of it."""
        while self.engine.rebasing:
            self.rebase()

    def confirm(self, partition: int) -> bool:
        """Commit with our generation."""
        self.reach()
        with self.world.lock:
            if self.world.owner[partition] != self.name or self.world.workers.get(self.name) is not self:
                return False
            if partition in self.positions:
                self.world.committed[partition] = max(self.world.committed[partition], self.positions[partition])
            return True

    # what befalls it

    def reach(self, *, state: bool = False) -> None:
        """A step is about to be taken: the place to die or to wait."""
        plan = self.plan
        if plan.only_states and not state:
            return
        if plan.kill_after is not None:
            plan.kill_after -= 1
            if plan.kill_after < 0:
                raise Killed
        if plan.freeze_after is not None:
            plan.freeze_after -= 1
            if plan.freeze_after < 0:
                plan.freeze_after = None
                plan.frozen.set()
                assert plan.thawed.wait(_WAIT_S), "never thawed"
                if plan.killed_on_thaw:
                    raise Killed

    def freeze_in(self, steps: int, work: Callable[[], None], *, only_states: bool = False) -> bool:
        """Start to `work` and freeze after `steps` steps. False when the work was over before."""
        self.plan = Plan(freeze_after=steps, only_states=only_states)

        def run() -> None:
            try:
                work()
            except BaseException as outcome:
                self.outcome = outcome
            finally:
                self.plan.frozen.set()

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert self.plan.frozen.wait(_WAIT_S), "neither froze nor finished"
        if self.plan.freeze_after is None:
            return True
        self.thaw()
        return False

    def thaw(self, *, kill: bool = False) -> BaseException | None:
        """Go on, to the end of the work; what ended the process, if anything did."""
        assert self.thread is not None
        self.plan.killed_on_thaw = kill
        self.plan.thawed.set()
        self.thread.join(_WAIT_S)
        assert not self.thread.is_alive(), "did not finish"
        self.thread, self.plan = None, Plan()
        return self.outcome

    def vanish(self) -> None:
        """The process is gone; its disk holds what RocksDB had handed to the operating system, and no more."""
        directory = store_directory(self.settings)
        as_killed = directory.with_suffix(".killed")
        if directory.exists():
            _copy_at_rest(directory, as_killed)
        self.engine.close()
        if directory.exists():
            shutil.rmtree(directory)
            as_killed.rename(directory)
            for lock in directory.rglob("LOCK"):
                lock.unlink()
        for partition, owner in self.world.owner.items():
            if owner == self.name:
                self.world.owner[partition] = None

    def leave(self) -> None:
        """SIGTERM: close cleanly."""
        self.engine.close()
        for partition, owner in self.world.owner.items():
            if owner == self.name:
                self.world.owner[partition] = None


def _copy_at_rest(directory: Path, copy: Path) -> None:
    """Copy stores that RocksDB may be merging: again, if files came or went meanwhile."""
    while True:
        before = _sizes(directory)
        with suppress(shutil.Error):  # a file went
            shutil.copytree(directory, copy)
            if _sizes(directory) == before:
                return
        shutil.rmtree(copy)


def _sizes(directory: Path) -> dict[Path, int]:
    sizes = {}
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    return sizes


class WorkerBroker:
    """One worker's way to the cluster."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._world = worker.world

    def identity(self) -> Identity:
        return Identity("interactions-id", "changelog-id", PARTITIONS)

    def send(self, outgoing: Mapping[int, Outgoing]) -> dict[int, list[int]]:
        """Record by record, so that a worker can stop between any two; Kafka promises no order between topics."""
        offsets: dict[int, list[int]] = {partition: [] for partition in outgoing}
        topics = [self._send_lists, self._send_states, self._send_dead_letters]
        for send in topics if self._world.lists_first else reversed(topics):
            for partition, sent in outgoing.items():
                send(partition, sent, offsets[partition])
        return offsets

    def _send_lists(self, partition: int, sent: Outgoing, _: list[int]) -> None:
        for key, value in sent.lists:
            self._worker.reach()
            self._world.lists[partition].append((key, recommendation.decode(value) if value else None))

    def _send_states(self, partition: int, sent: Outgoing, offsets: list[int]) -> None:
        for key, state in sent.states:
            self._worker.reach(state=True)
            offset = self._world.end[partition]
            self._world.changelog[partition].append(Entry(offset, key, state))
            self._world.end[partition] += 1
            if self._world.forget_offsets:
                self._world.forget_offsets -= 1
                offset = -1
            offsets.append(offset)

    def _send_dead_letters(self, partition: int, sent: Outgoing, _: list[int]) -> None:
        for letter in sent.dead_letters:
            self._worker.reach()
            self._world.dead_letters[partition].append(letter.record.offset)

    def changelog_range(self, partition: int) -> tuple[int, int]:
        self._worker.reach()
        return 0, self._world.end[partition]

    def read_changelog(
        self, partition: int, start: int, end: int
    ) -> Iterator[tuple[int, list[tuple[bytes, bytes | None]]]]:
        entries = [entry for entry in self._world.changelog[partition] if start <= entry.offset < end]
        for at in range(0, len(entries), 3):
            self._worker.reach()
            batch = entries[at : at + 3]
            yield batch[-1].offset + 1, [(entry.key, entry.value) for entry in batch]


class SteppingStore(Store):
    """A store whose writes are steps of the worker that owns its directory."""

    world: World

    def write(
        self,
        records: Mapping[bytes, bytes | None],
        changelog_position: int,
        input_position: int | None = None,
        *,
        logged: bool = True,
    ) -> None:
        self._step()
        super().write(records, changelog_position, input_position, logged=logged)
        self._step()

    def flush(self) -> None:
        self._step()
        super().flush()

    def _step(self) -> None:
        with suppress(KeyError):
            self.world.workers[self.path.parent.name].reach()


def install(world: World) -> None:
    """Make new stores step with the workers of `world`."""
    SteppingStore.world = world
    user_table.Store = SteppingStore  # type: ignore[misc]
