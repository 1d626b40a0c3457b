"""What faults are done to: a broker, workers as real processes, and a producer."""

import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ops.chaos.log import Feeder, KnownLog
from ops.chaos.model import artefact
from ops.chaos.schedule import SESSION_S
from ops.kafka import LocalKafka
from ops.program import Program, ProgramFailed
from ops.publisher import Publisher
from ops.topics import admin, create
from schemas.artefact import CHAMPION, encode_manifest
from schemas.artefact_store import ArtefactStore
from schemas.kafka import consumer_config
from schemas.settings import DONE, REFUSED, Settings
from schemas.topics import topics

HISTORY_LENGTH: Final = 20
"""short, so that histories are cut within minutes"""
IDLE_CHECK_S: Final = 1.0
_COMMIT_S: Final = 0.5
_CACHE_MIB: Final = 32
"""small, so that it is full within minutes and what grows beside it is seen"""
_CAUGHT_UP_S: Final = 3.0
"""of traffic may be under way when there is no lag: commits come at intervals, and the machine may be busy"""
_OWNS: Final = "owns partitions"
_RESTART_S: Final = 0.5
_POLL_S: Final = 0.05
_ANSWER_S: Final = 2.0
_COMPACTION_LAG_S: Final = 300
_SEGMENT_BYTES: Final = 64 << 20
"""of the changelog: a long run must not fill the disk"""


class Worker:
    """One worker's place: a process that is started again when it ends, on data of its own.

    Args:
        name: its worker id.
        settings: name broker and topics.
        directory: of its data and logs.
        program: the module to run.
        session_s: its session timeout.
    """

    def __init__(
        self, name: str, settings: Settings, directory: Path, program: str = "stream_app", session_s: float = SESSION_S
    ) -> None:
        self.name = name
        self.wanted = False
        """whether it is to be started again when it ends"""
        self.endings: list[int] = []
        """the statuses that it ended with when nobody had asked it to"""
        self.data_dir = directory / name
        self._settings = settings
        self._program = program
        self._session_s = session_s
        self._directory = directory
        self._process: Program | None = None
        self._starts = itertools.count(1)
        self._ended_at: float | None = None

    @property
    def process(self) -> Program:
        """The present process, or the last one."""
        assert self._process is not None
        return self._process

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.running

    @property
    def stores(self) -> Path:
        """Where it keeps the stores of its partitions."""
        return self.data_dir / self._settings.app / self.name

    def start(self) -> None:
        """Start it; from now on it is started again when it ends."""
        arguments = {
            "worker-id": self.name,
            "data-dir": self.data_dir,
            "history-length": HISTORY_LENGTH,
            "session-timeout-s": self._session_s,
            "commit-interval-s": _COMMIT_S,
            "idle-check-s": IDLE_CHECK_S,
            "cache-mib": _CACHE_MIB,
        }
        line = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
        log = self._directory / f"{self.name}-{next(self._starts)}.log"
        self._process = Program(self._program, line, self._settings, log)
        self._process.__enter__()
        self.wanted, self._ended_at = True, None

    def kill(self) -> None:
        """SIGKILL, and no other start."""
        self.wanted = False
        if self._process is not None:
            self._process.kill()

    @property
    def started(self) -> bool:
        """Whether it has come so far that it ends in order."""
        return self.running and bool(self.logged("started"))

    @property
    def working(self) -> bool:
        """Whether it has joined the group."""
        return self.running and bool(self.logged(_OWNS))

    def stop(self) -> None:
        """SIGTERM, and no other start.

        Raises:
            ProgramFailed: it ended with another status than 0.
        """
        self.wanted = False
        if self.running and (status := self.process.stop()) != DONE:
            raise ProgramFailed(f"worker {self.name} ended with status {status} after SIGTERM, see {self.process.log}")

    def wipe(self) -> None:
        """Delete its stores."""
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def tend(self) -> None:
        """Start it again, if it ended and is wanted.

        Raises:
            ProgramFailed: it refused to start.
        """
        if not self.wanted or self.running:
            return
        if self._ended_at is None:
            self._ended_at = time.monotonic()
            self.endings.append(self.process.status or DONE)
            if self.process.status == REFUSED:
                said = self.process.log.read_text(errors="replace").splitlines()[-1:]
                raise ProgramFailed(f"worker {self.name} refused to go on: {' '.join(said)}")
        elif time.monotonic() - self._ended_at > _RESTART_S:
            self.start()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of the present process's log that tell of `event`."""
        return [line for line in self.process.lines() if line.get("event") == event]


class Cluster:
    """A context manager around everything that runs; nothing outlives it.

    Args:
        settings: name the broker and topics that nobody else uses.
        directory: for data and logs.
        kafka: the broker, if it is ours.
        workers: names of the workers that are there from the start on.
        rate: records per second.
        seed: of the log.
        users: how many the log has.
        program: the module of the workers.
        session_s: their session timeout.
        patience_s: how long anything may take to come back.
    """

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        kafka: LocalKafka | None,
        workers: Sequence[str],
        rate: float,
        seed: int,
        users: int = 2_000,
        items: int = 500,
        program: str = "stream_app",
        session_s: float = SESSION_S,
        patience_s: float = 300.0,
    ) -> None:
        self.settings = settings
        self.kafka = kafka
        self.rate = rate
        self.workers: dict[str, Worker] = {}
        self._regular = list(workers)
        self._directory = directory
        self._program = program
        self._session_s = session_s
        self._patience_s = patience_s
        self._item_ids = [f"item-{number}" for number in range(items)]
        self._versions = itertools.count(1)
        self._stack = ExitStack()
        self.feeder = Feeder(settings, KnownLog(seed, users, self._item_ids), rate)
        self.watch: Callable[[], None] = lambda: None
        """called again and again while time passes"""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            with admin(self.settings) as client:
                create(client, _topics(self.settings), self.settings.replication)
            self.swap()
            self._group = self._reader()
            stack.callback(lambda: self._group.close())
            stack.callback(self._end_all)
            for name in self._regular:
                self.worker(name).start()
            self.wait_until(self._all_own, "the workers own partitions")
            stack.enter_context(self.feeder)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    @property
    def endings(self) -> int:
        """How often workers ended when nobody had asked them to."""
        return sum(len(worker.endings) for worker in self.workers.values())

    def worker(self, name: str) -> Worker:
        """The worker of this name, made if it is new."""
        if name not in self.workers:
            self.workers[name] = Worker(name, self.settings, self._directory, self._program, self._session_s)
        return self.workers[name]

    def swap(self) -> None:
        """Make a new model the champion."""
        manifest, files = artefact(next(self._versions), self._item_ids)
        ArtefactStore(self.settings.artefact_store).write(files, manifest)
        with Publisher(self.settings) as publisher:
            publisher.send(self.settings.models, CHAMPION, encode_manifest(manifest))

    def wait(self, seconds: float) -> None:
        """Let time pass; workers that end meanwhile are started again."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._tend()
            time.sleep(min(_POLL_S, left))

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Let time pass until a condition holds.

        Raises:
            ProgramFailed: it does not in time.
        """
        deadline = time.monotonic() + self._patience_s
        while not holds():
            if time.monotonic() > deadline:
                raise ProgramFailed(f"not within {self._patience_s:g} s: {what}, see {self._directory}")
            self.wait(_POLL_S)

    def positions(self) -> dict[int, tuple[int, int]] | None:
        """Committed offset and end of the log by partition; None while the broker does not answer."""
        tps = [TopicPartition(self.settings.interactions, p) for p in range(self.settings.partitions)]
        try:
            committed = self._group.committed(tps, _ANSWER_S)
            return {
                tp.partition: (max(0, tp.offset), self._group.get_watermark_offsets(tp, _ANSWER_S)[1])
                for tp in committed
            }
        except KafkaException:
            # the client may hold on to a coordinator that is none any more
            self._group.close()
            self._group = self._reader()
            return None

    def lag(self) -> int | None:
        """Records that are not committed; None while the broker does not answer."""
        positions = self.positions()
        return None if positions is None else sum(end - committed for committed, end in positions.values())

    def await_no_lag(self) -> float:
        """Wait until everything that is in the log now is committed, and what came since but for seconds; how long.

        Raises:
            ProgramFailed: that does not come.
        """
        began = time.monotonic()
        marks: dict[int, int] = {}

        def caught_up() -> bool:
            if (positions := self.positions()) is None:
                return False
            if not marks:
                marks.update({partition: end for partition, (_, end) in positions.items()})
            behind = sum(end - committed for committed, end in positions.values())
            reached = all(committed >= marks[partition] for partition, (committed, _) in positions.items())
            return reached and behind <= self.rate * _CAUGHT_UP_S

        self.wait_until(caught_up, "the lag is back to zero")
        return time.monotonic() - began

    def settle(self) -> int:
        """End the log, wait until all of it is committed and no worker writes any more, and stop the workers.

        Returns:
            the records of the log.

        Raises:
            ProgramFailed: that does not come, or a worker does not end in order.
        """
        sent = self.feeder.finish()
        self.wait_until(lambda: self.lag() == 0, "the whole log is committed")
        self.wait_until(self._all_own, "all partitions have one owner")
        quiet = self._changelog_ends()
        for _ in range(10):
            self.wait(2 * IDLE_CHECK_S)  # who was overtaken heals when it looks
            if (now := self._changelog_ends()) == quiet:
                break
            quiet = now
        else:
            raise ProgramFailed("the workers keep writing to the changelog although no event comes")
        running = [worker for worker in self.workers.values() if worker.wanted]
        with ThreadPoolExecutor(len(running)) as pool:  # all at once: nobody is to take over
            list(pool.map(Worker.stop, running))
        return sent

    def _reader(self) -> Consumer:
        """Asks for the group's offsets without being a member of it."""
        return Consumer(consumer_config(self.settings) | {"group.id": self.settings.app, "log_level": 0})

    def _changelog_ends(self) -> list[int]:
        tps = [TopicPartition(self.settings.changelog, p) for p in range(self.settings.partitions)]
        return [self._group.get_watermark_offsets(tp, _ANSWER_S)[1] for tp in tps]

    def _all_own(self) -> bool:
        """Whether every worker has joined, and each partition is owned once by what they say."""
        said = [worker.logged(_OWNS) for worker in self.workers.values() if worker.wanted]
        owned = [partition for lines in said if lines for partition in lines[-1]["partitions"]]
        return all(said) and sorted(owned) == list(range(self.settings.partitions))

    def _tend(self) -> None:
        for worker in self.workers.values():
            worker.tend()
        if self.feeder.failure is not None:
            raise self.feeder.failure
        self.watch()

    def _end_all(self) -> None:
        for worker in self.workers.values():
            worker.kill()


def _topics(settings: Settings) -> Iterator[Any]:
    for topic in topics(settings):
        if topic.name == settings.changelog:
            config = {"min.compaction.lag.ms": str(1000 * _COMPACTION_LAG_S), "segment.bytes": str(_SEGMENT_BYTES)}
            yield topic._replace(config=topic.config | config)
        else:
            yield topic
