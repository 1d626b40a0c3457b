"""The Faust app: it turns fetched batches into rounds of the engine, and rebalances into ownership.

The engine does the work, in a thread of its own, so that the event loop lives and the group's heartbeats go on.
"""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple, ParamSpec, Protocol, Self, TypeVar, cast

import faust
import structlog
from faust.cli.faust import cli
from faust.types import TP
from faust.types.auth import CredentialsT
from mode import CrashingSupervisor

from schemas.settings import FAILED, REFUSED, Refused
from stream_app.batch_transport import SCHEME, Batch, BatchConsumer, NoTables
from stream_app.broker import Record
from stream_app.counters import Counters
from stream_app.engine import store_directory
from stream_app.settings import WorkerSettings

_HEARTBEATS_PER_SESSION: Final = 10
_REQUEST_TIMEOUT_S: Final = 40.0
_FETCH_BYTES: Final = 1 << 20
_ROUND_BYTES: Final = 16 << 20
"""of keys and values that one round takes at most, but for its last batch"""
_PROGRESS_S: Final = 10.0
_BEAT_S: Final = 1.0
_CONFIRM_S: Final = 5.0
"""in which a commit is answered, if the broker is there"""
_ENDING_S: Final = 20.0
"""in which a worker that fails has ended; Faust's threads may wait for an answer that never comes"""
_LOOK_S: Final = 0.25
_QUIET_S: Final = 1.0
"""without a round, after which slices in the background follow each other"""
_SLICE_S: Final = 0.01
_LONGEST_SLICE_S: Final = 0.05
_SHARE: Final = 1 / 3
"""of the time that rounds leave"""
_LEAST_SHARE: Final = 1 / 20
"""of all time"""
_PAUSE_S: Final = 0.002

_log = structlog.get_logger()
P = ParamSpec("P")
R = TypeVar("R")


class _Busy(NamedTuple):
    """What the engine did last: until when, in monotonic seconds, and for how long."""

    until: float
    seconds: float

    @classmethod
    def since(cls, started: float) -> Self:
        """It ends now."""
        now = time.monotonic()
        return cls(now, now - started)


class Rounds(Protocol):
    """What the host needs of an engine. Every method blocks, and every exception ends the process."""

    counters: Counters

    @property
    def input_positions(self) -> Mapping[int, int]:
        """The next input offset of each open partition, as its store has it; 0 in a new one."""

    def own(self, partitions: Collection[int], begun: Collection[int]) -> int:
        """Open and recover exactly `partitions`, close the others, and return how many records that took.

        Events of the partitions `begun` are done already, so there must be states.
        """

    def process(self, batches: Mapping[int, Sequence[Record]]) -> None:
        """One round over ascending records by partition; all its effects are durable when it returns."""

    @property
    def rebasing(self) -> bool:
        """Whether there is something to do in the background; read in any thread."""

    def rebase(self, budget_s: float) -> None:
        """Do some of it, for about `budget_s` seconds."""

    def check_idle(self) -> None:
        """Look whether another writer was on the changelogs of idle partitions."""

    def close(self) -> None:
        """Close everything."""


class Host:
    """One worker process: a Faust app around an engine.

    Attributes:
        beat_at: when the event loop last came round; None before it runs. These times are monotonic seconds.
        busy_since: when the engine was given what it does now; None while it rests.
        lag: offsets between what is durable and the end of the log, by partition, as of the last fetch.
        expired: offsets that expired before they were read.
    """

    _engine: Rounds
    _loop: asyncio.AbstractEventLoop

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "engine")
        self._owned: set[int] | None = None
        self._failure: BaseException | None = None
        self._deadline: threading.Timer | None = None
        self._app = _app(settings)
        self._topic = self._app.topic(settings.interactions, key_serializer="raw", value_serializer="raw")
        # a round that fails must end the process: Faust would restart the agent, and go on after the lost batch
        self._app.agent(self._topic, supervisor_strategy=CrashingSupervisor, name="rounds")(self._rounds)
        self._app.on_partitions_revoked.connect(self._on_revoked)
        self._app.on_rebalance_complete.connect(self._on_rebalanced)
        self._app.timer(settings.idle_check_s)(self._check_idle)
        self._app.timer(_PROGRESS_S)(self._report)
        self._app.task(self._rebase)
        self._queue: asyncio.Queue[Any] | None = None
        self._last_round = _Busy(float("-inf"), 0.0)
        self._rounds_s = 0.0
        self._reported = (0, 0)
        self.beat_at: float | None = None
        self.busy_since: float | None = None
        self.lag: Mapping[int, int] = {}
        self.expired = 0

    @property
    def owned(self) -> Collection[int] | None:
        """The partitions that the group gave to this worker, open or not yet; None while it has not decided."""
        return self._owned

    def run(self, engine: Rounds, faust_options: Sequence[str] = ()) -> int:
        """Run until a signal or a failure, close the engine, and return the exit status.

        Raises:
            Refused: the engine must not work on what it found.
        """
        self._engine = engine
        self._deadline = threading.Timer(_ENDING_S, self._end)
        self._deadline.daemon = True
        status: int | str | None = FAILED
        self._loop = asyncio.new_event_loop()
        self._loop.call_soon(self._beat)
        asyncio.set_event_loop(self._loop)  # Faust takes it
        try:
            cli(["--quiet", "worker", "--without-web", *faust_options], app=self._app)
        except SystemExit as end:
            status = FAILED if self._failure else end.code
        finally:
            self._thread.shutdown()
            self._close()
        if self._app.crash_reason is not None:
            self._note(self._app.crash_reason)
        if isinstance(self._failure, Refused):
            raise self._failure
        if self._failure is not None:
            status = FAILED
        counters = self._engine.counters
        _log.info("stopped", events=counters.events, lists=counters.lists, lost=self.expired, status=status or 0)
        return status if isinstance(status, int) else FAILED

    def fail(self, failure: BaseException) -> None:
        """End the process with a non-zero status; may be called from any thread, at any time."""
        self._note(failure)
        os.kill(os.getpid(), signal.SIGTERM)

    def confirm(self, partition: int) -> bool:
        """Commit the position of a partition with our own group generation, and say whether it was accepted.

        Called by the engine, from its own thread.
        """
        tp = TP(self._settings.interactions, partition)
        asked = asyncio.run_coroutine_threadsafe(self._consumer.confirm(tp), self._loop)
        while not wait([asked], _CONFIRM_S).done:
            if self._app.should_stop:  # the consumer has ended, or will: it never answers, and the stop waits for us
                asked.cancel()
                return False
        return asked.result()

    @property
    def _consumer(self) -> BatchConsumer:
        return cast("BatchConsumer", self._app.consumer)

    def _end(self) -> None:
        """As a kill, which loses nothing: better than a worker that neither works nor ends."""
        _log.error("the worker does not end by itself, and is ended")
        os._exit(REFUSED if isinstance(self._failure, Refused) else FAILED)

    def _close(self) -> None:
        try:
            self._engine.close()
        except Exception as failure:
            self._note(failure)

    async def _rounds(self, stream: Any) -> None:
        """Faust's agent: one round of everything that queued up while the last round was written."""
        self._queue = queue = stream.channel.queue
        async for event in stream.events():
            waiting: list[Batch] = [event.value]
            records, size = len(waiting[0].records), waiting[0].size
            while records < self._settings.round_records and size < _ROUND_BYTES and not queue.empty():
                waiting.append(queue.get_nowait().value)
                records += len(waiting[-1].records)
                size += waiting[-1].size
            async with self._consumer.round:
                if batches := self._consumer.current(waiting):
                    async with self._fatal():
                        for batch in batches:
                            if batch.expired is not None:
                                self._expired(batch.tp, "position", *batch.expired)
                    started = time.monotonic()
                    await self._in_engine(self._process, batches)
                    self._consumer.done(batches)
                    self._last_round = _Busy.since(started)
                    self._rounds_s += self._last_round.seconds

    def _process(self, batches: Sequence[Batch]) -> None:
        by_partition: dict[int, list[Record]] = {}
        for batch in batches:
            by_partition.setdefault(batch.tp.partition, []).extend(
                Record(r.offset, r.key, r.value, r.timestamp) for r in batch.records
            )
        self._engine.process(by_partition)

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        """After the running round was waited for and committed: the partitions are not ours from here on."""
        owned, self._owned = self._owned, None
        if owned:
            await self._in_engine(self._engine.own, (), ())

    async def _on_rebalanced(self, *_: Any, **__: Any) -> None:
        """Before the first record of the new generation is fetched."""
        owned = {tp.partition for tp in self._consumer.assignment() if tp.topic == self._settings.interactions}
        self._owned = owned  # before the wait: a revoke meanwhile must close them again
        started = time.monotonic()
        begun = await self._begun() if self._settings.on_lost_events == "stop" else set[int]()
        recovered = await self._in_engine(self._engine.own, owned, begun)
        seconds = round(time.monotonic() - started, 2)
        _log.info("owns partitions", partitions=sorted(owned), recovered=recovered, seconds=seconds)
        async with self._fatal():
            await self._check_lost()

    async def _begun(self) -> set[int]:
        async with self._fatal():
            return {tp.partition for tp, position in (await self._consumer.positions()).items() if position.committed}

    async def _check_lost(self) -> None:
        """Events may expire while no worker runs, offsets too, and a cluster may lose the end of a log."""
        stored = self._engine.input_positions
        for tp, (committed, first, end) in (await self._consumer.positions()).items():
            done = stored.get(tp.partition, 0)
            if (ahead := max(committed or 0, done)) > end:
                raise Refused(
                    f"{tp.topic}[{tp.partition}]: events before offset {ahead} are done but the log ends at {end}, so "
                    "new events would be taken for old ones: `python -m ops reset` processes the log again"
                )
            if committed is not None and committed < first:
                self._expired(tp, "committed offset", committed, first)
            elif committed is None and 0 < done < first:
                self._expired(tp, "store's position", done, first)

    def _expired(self, tp: TP, name: str, position: int, first: int) -> None:
        if self._settings.on_lost_events == "stop":
            raise Refused(
                f"{tp.topic}[{tp.partition}]: the {name} is {position} but the log begins at {first}, "
                f"the events between expired unread: go on without them with --on-lost-events continue"
            )
        self._consumer.skip(tp, first)
        self.expired += first - position
        _log.error("events expired unread", partition=tp.partition, committed=position, log_begins=first)

    async def _check_idle(self) -> None:
        async with self._consumer.round:
            if self._owned and self._consumer.flow_active:
                await self._in_engine(self._engine.check_idle)

    async def _rebase(self) -> None:
        """Faust's task: what is to be done in the background, in slices between the rounds.

        While there are events, a slice is short, and slices have a third of the time that rounds leave, in moments when
        no batch waits; where that is less than a twentieth of all time, they have that.
        """
        while not self._app.should_stop:
            if not (self._engine.rebasing and self._consumer.flow_active):
                await asyncio.sleep(_LOOK_S)
                continue
            async with self._consumer.round:
                if not self._consumer.flow_active:
                    continue
                started = time.monotonic()
                budget_s = _LONGEST_SLICE_S if started - self._last_round.until > _QUIET_S else _SLICE_S
                await self._in_engine(self._engine.rebase, budget_s)
                spent = _Busy.since(started)
            await self._rest(spent)

    async def _rest(self, spent: _Busy) -> None:
        """After a slice, leave the engine to rounds."""
        rounds_before_s = self._rounds_s
        enough_s, most_s = (spent.seconds * (1 / share - 1) for share in (_SHARE, _LEAST_SHARE))
        await asyncio.sleep(0)
        while (now := time.monotonic()) - spent.until < most_s and now - self._last_round.until < _QUIET_S:
            waiting = self._consumer.round.locked() or not (self._queue is None or self._queue.empty())
            left_s = now - spent.until - (self._rounds_s - rounds_before_s)
            if left_s >= enough_s and not waiting:
                break
            await asyncio.sleep(_PAUSE_S)

    def _beat(self) -> None:
        """Called once a second, from the first moment of the event loop to its last."""
        self.beat_at = time.monotonic()
        self._loop.call_later(_BEAT_S, self._beat)
        # while the flow is active, the assignment does not change before the event loop has heard of it
        self.lag = self._consumer.lag() if self._owned and self._consumer.flow_active else {}

    async def _report(self) -> None:
        events, lists = self._engine.counters.events, self._engine.counters.lists
        if (events, lists) != self._reported:
            rate = round((events - self._reported[0]) / _PROGRESS_S)
            self._reported = events, lists
            _log.info("progress", events=events, lists=lists, events_per_s=rate, lag=sum(self.lag.values()))

    async def _in_engine(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `work` in the engine's thread. A failure there ends the process, wherever it was asked for."""
        async with self._fatal():
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._busy, partial(work, *args, **kwargs)
            )

    def _busy(self, work: Callable[[], R]) -> R:
        self.busy_since = time.monotonic()
        try:
            return work()
        finally:
            self.busy_since = None

    @asynccontextmanager
    async def _fatal(self) -> AsyncIterator[None]:
        try:
            yield
        except Exception as failure:
            self._note(failure)
            await self._app.crash(failure)
            raise

    def _note(self, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = failure
            if self._deadline is not None:
                self._deadline.start()
            _log.error("the worker fails and ends", error=str(failure) or repr(failure), kind=type(failure).__name__)
            if isinstance(failure, Refused):
                for library in ("faust", "mode"):  # they would tell it again, with a stack that helps nobody
                    logging.getLogger(library).setLevel(logging.CRITICAL + 1)


def _app(settings: WorkerSettings) -> faust.App:
    session_s = settings.session_timeout_s
    datadir = store_directory(settings) / "faust"
    try:
        datadir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"data_dir {settings.data_dir} cannot be used: {error.strerror} ({error.filename})") from error
    return faust.App(
        settings.app,
        broker=[f"{SCHEME}://{address}" for address in settings.broker.split(",")],
        broker_credentials=_credentials(settings),
        consumer_group_instance_id=settings.worker_id,  # static member: its partitions wait for it to come back
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=_FETCH_BYTES,
        broker_max_poll_records=settings.round_records,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / _HEARTBEATS_PER_SESSION,
        broker_request_timeout=max(_REQUEST_TIMEOUT_S, session_s),
        broker_commit_interval=settings.commit_interval_s,
        stream_wait_empty=True,  # calls the transport's wait_empty
        # counts batches; the transport bounds the records in flight, of which a batch has one at least
        stream_buffer_maxsize=10 * settings.round_records,
        key_serializer="raw",
        value_serializer="raw",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_tables_enabled=False,
        worker_redirect_stdouts=False,
        datadir=datadir,
        TableManager=NoTables,
        Worker=_Process,
    )


def _credentials(settings: WorkerSettings) -> CredentialsT | None:
    context = settings.ssl_context() if settings.has_tls else None
    if settings.has_password:
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=settings.password,
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    return faust.SSLCredentials(context) if context else None


class _Process(faust.Worker):
    """Faust's process, which leaves logging and terminal as they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"override_logging": False})
        self.spinner = None
