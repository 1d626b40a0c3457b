"""Faust's Kafka transport, delivering one event per partition and list of fetched records.

Stock Faust makes an event, a task switch and an acknowledgement of every record: 7k records/s on one core with nothing
done. Here an event holds all records of a partition that one fetch returned (300k/s), and offsets are committed from
what the application reported as done, never from Faust's lists of acknowledgements: those count events that were
skipped, and stand still for ever when a batch ends at offset 0.

Every private part of Faust and aiokafka that the worker relies on is in this file:

    faust.transport.consumer.Consumer   _drain_messages, _wait_next_records, _commit, _committed_offset
    faust.transport.drivers.aiokafka    AIOKafkaConsumerThread: _create_worker_consumer, _commit, _ensure_consumer,
                                        _fetch_records, on_thread_stop
                                        Consumer._new_consumer_thread, ConsumerRebalanceListener._thread
    faust.transport.drivers             TRANSPORTS.aliases
    faust.tables.manager.TableManager   on_start, _update_channels, recovery
    aiokafka.AIOKafkaConsumer           _coordinator.generation, _coordinator.member_id
    Faust's order of events             a revoke and a stop end the flow, clear the queue and call `wait_empty`; after a
                                        rebalance `on_rebalance_complete` is awaited, then all partitions are sought to
                                        their committed offsets (else the earliest ones), then the flow resumes
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from typing import Any, Final, NamedTuple, cast

import aiokafka
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import CommitFailedError, ConsumerStoppedError, IllegalStateError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import JoinGroupRequest
from faust.tables.manager import TableManager
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

_MADE_FOR: Final = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0"}
_WRONG = {name: version(name) for name, wanted in _MADE_FOR.items() if version(name) != wanted}
if _WRONG:
    raise ImportError(
        f"batch_transport uses private parts of {_MADE_FOR}, found {_WRONG}: install exactly these versions"
    )

SCHEME: Final = "kafkabatch"
"""of broker URLs, for this transport"""

_ROUNDS_AHEAD: Final = 2
"""Fetching waits while more than this many rounds are fetched and not done. Faust's own back pressure
(`stream_buffer_maxsize`) stops and starts in steps of one second."""

_AHEAD_RECORDS: Final = 1 / 10
"""of a round: where a fetch brings fewer records, the next one waits until these are done, and takes all that came
meanwhile. At once, and again and again, it would take a few each time, and the interpreter from the round."""

_AHEAD_BYTES: Final = 1 / 2
"""of what a fetch takes of a partition: as many bytes count as many records"""

_BYTES_AHEAD: Final = 64 << 20
"""Fetching also waits while more than this is fetched and not done: a record may be 600 times as large as another."""

_FETCH_TIMEOUT_S: Final = 1.0

_FETCH_WAIT_MS: Final = 100
"""How long the broker holds a fetch that finds nothing. aiokafka has one fetch to a broker at a time, so a partition
that is not part of it waits this long (1,500 ms in stock Faust) when the others are quiet."""

_COMMIT_ON_STOP_S: Final = 5.0
"""A stop does not wait longer for a group coordinator that does not answer; the round is then processed again."""


class Batch(NamedTuple):
    """All records of a partition that one fetch returned: the value of a Faust event."""

    tp: TP
    records: Sequence[Any]
    """aiokafka records, ascending, not empty"""
    follows: int | None
    """offset of the last record of the partition's batch before, None for the first one of a generation"""
    generation: int
    """of the group, when the fetch began"""
    size: int
    """bytes of keys and values"""
    expired: tuple[int, int] | None = None
    """offsets before the first record, first..end-1, that were in the log and are gone unread"""

    @property
    def last(self) -> int:
        """Offset of the last record."""
        offset: int = self.records[-1].offset
        return offset


class Position(NamedTuple):
    """Where a partition stands, as the group and the log have it."""

    committed: int | None
    """None where the group has no offset, or has lost it"""
    first: int
    """offset at which the log begins"""
    end: int
    """offset at which the log ends"""


class MembershipLost(Exception):
    """The group coordinator does not know this worker any more."""


class BatchLost(Exception):
    """A batch vanished on its way: going on would commit records that were never processed."""


class BatchConsumer(driver.Consumer):
    """The consumer of one topic. The application holds `round` while it processes batches:

    async with consumer.round:
        batches = consumer.current(batches)
        ...  # make their effects durable
        consumer.done(batches)

    Attributes:
        fetches_ahead: whether the last fetch brought so much that the next one need not wait for the rounds.
    """

    _thread: "_ConsumerThread"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.round = asyncio.Lock()
        self._committing = asyncio.Lock()
        self._room = asyncio.Event()
        self._new_generation()
        super().__init__(*args, **kwargs)

    def _new_generation(self) -> None:
        self.fetches_ahead = False
        self._in_flight = 0  # records fetched and not done
        self._bytes_in_flight = 0
        self._fetched: dict[TP, int] = {}  # last offset of what was fetched
        self._taken: dict[TP, int] = {}  # last offset of what a round took
        self._done: dict[TP, int] = {}  # next offset after what is durable
        self._accepted: dict[TP, int] = {}  # next offset that the coordinator has
        self._room.set()

    # What the application calls, in the event loop.

    def current(self, batches: Iterable[Batch]) -> list[Batch]:
        """Those of `batches` that belong to this generation; the others come again, to whoever owns them now.

        Raises:
            BatchLost: one is missing before them.
        """
        if not self.flow_active:
            return []
        current = [batch for batch in batches if batch.generation == self.app.consumer_generation_id]
        for batch in current:
            if batch.follows != self._taken.get(batch.tp):
                raise BatchLost(f"{batch.tp}: {batch.follows} must come next, got {self._taken.get(batch.tp)}")
            self._taken[batch.tp] = batch.last
        return current

    def done(self, batches: Iterable[Batch]) -> None:
        """Report that everything that `batches` caused is durable: their offsets may be committed."""
        for batch in batches:
            self._done[batch.tp] = batch.last + 1
            self._in_flight -= len(batch.records)
            self._bytes_in_flight -= batch.size
        self._room.set()

    def skip(self, tp: TP, offset: int) -> None:
        """Report that nothing before `offset` is left to do."""
        self._done.setdefault(tp, offset)

    async def confirm(self, tp: TP) -> bool:
        """Commit the position of `tp` with our own generation: False when the coordinator refuses, because the
        partition belongs to another worker by now."""
        if tp not in self.assignment():
            return False
        position = self._done.get(tp)
        if position is None:
            position = await self._thread.start_position(tp)
        accepted: bool = await self._commit({tp: position})
        return accepted

    async def positions(self) -> dict[TP, Position]:
        """Where the owned partitions stand."""
        return await self._thread.positions(self.assignment())

    def lag(self) -> dict[int, int]:
        """Offsets between what is durable and the end of the log, as of the last fetch, by owned partition."""
        ends = {tp: self.highwater(tp) for tp in self.assignment()}
        return {
            tp.partition: max(0, (end or 0) - (self._done.get(tp) or self._committed_offset[tp] or 0))
            for tp, end in ends.items()
        }

    # What Faust calls.

    async def _drain_messages(self, fetcher: Any) -> None:
        """Fetch and deliver until stopped; the body of Faust's fetcher service."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                for message in await self._fetch():
                    # waits while the flow is suspended; the message is then of an old generation, and dropped
                    await self.callback(message)
        except (asyncio.CancelledError, ConsumerStoppedError):
            if not self.app.should_stop:
                raise

    async def _fetch(self) -> list[ConsumerMessage]:
        while self._is_far_ahead() and self.flow_active:
            self._room.clear()
            await self._room.wait()
        generation = self.app.consumer_generation_id
        fetched, _ = await self._wait_next_records(_FETCH_TIMEOUT_S)
        if not fetched:
            return []
        expired = {tp: await self._expired(TP(*tp), records[0].offset) for tp, records in fetched.items()}
        # from here on without an await, for a new generation begins anew to count
        if not self.flow_active or generation != self.app.consumer_generation_id:
            await self.perform_seek()  # what was fetched is dropped, so that the next fetch must not continue it
            return []
        messages = []
        for aiokafka_tp, records in fetched.items():
            size = sum(len(record.key or b"") + len(record.value or b"") for record in records)
            tp = TP(*aiokafka_tp)
            batch = Batch(tp, records, self._fetched.get(tp), generation, size, expired[aiokafka_tp])
            self._fetched[batch.tp] = batch.last
            self._in_flight += len(records)
            self._bytes_in_flight += size
            messages.append(_message(batch))
        return messages

    async def _expired(self, tp: TP, offset: int) -> tuple[int, int] | None:
        """What is gone from the log between what was fetched of a partition and `offset`.

        Where a worker is so far behind that the log has gone on, aiokafka goes on at its beginning and says nothing.
        """
        fetched = self._fetched.get(tp)
        if fetched is None or offset == fetched + 1:
            return None
        first = (await self._thread.positions([tp]))[tp].first  # most gaps are markers of transactions
        return (fetched + 1, first) if fetched + 1 < first else None

    def _is_far_ahead(self) -> bool:
        if not self.fetches_ahead:
            return self._in_flight > 0
        records_ahead = _ROUNDS_AHEAD * self.app.conf.broker_max_poll_records
        return self._in_flight > records_ahead or self._bytes_in_flight > _BYTES_AHEAD

    def stop_flow(self) -> None:
        """Called on a revoke and on a stop: no new round from here on."""
        super().stop_flow()
        self._room.set()

    async def wait_empty(self) -> None:
        """Called on a revoke and on a stop: wait for the running round, and commit it while we still may."""
        async with self.round:
            try:
                async with asyncio.timeout(_COMMIT_ON_STOP_S if self.app.should_stop else None):
                    await self.force_commit()
            except TimeoutError:
                self.log.warning(
                    "no commit within %s s: what was done since the last one will come again", _COMMIT_ON_STOP_S
                )

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Called after a rebalance, before any record of the new generation is fetched."""
        self._new_generation()
        await super().on_partitions_assigned(assigned, generation_id)

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002
        """Commit what was reported done since the last commit."""
        async with self._committing:
            offsets = {tp: offset for tp, offset in self._done.items() if offset != self._accepted.get(tp)}
            if not offsets or not await self._commit(offsets):
                return False
            self._accepted.update(offsets)
            return True

    def ack(self, message: Any) -> bool:
        """Faust acknowledges also what it skipped: nothing depends on it."""
        message.acked = True
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's watchdog watches acknowledgements and single records: it would raise false alarms."""

    def _new_consumer_thread(self) -> "_ConsumerThread":
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class _RebalanceListener(driver.ConsumerRebalanceListener):
    """Ends the worker when its membership is gone.

    aiokafka would join again at once. A static member that does so takes its identity back from the worker that has it
    now, which then does the same: two workers with one id would fence each other for ever, in silence.
    """

    _joined = False

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> Any:
        """Called before a join, also before the first one."""
        coordinator = self._thread._ensure_consumer()._coordinator
        if self._joined and coordinator.member_id == JoinGroupRequest.UNKNOWN_MEMBER_ID:
            return self._leave()
        return super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """Called after a join."""
        self._joined = True
        await super().on_partitions_assigned(assigned)

    async def _leave(self) -> None:
        app = self._thread.app
        lost = MembershipLost(
            f"group {app.conf.id} does not know worker {app.conf.consumer_group_instance_id} any more: another worker "
            f"runs under the same worker id, or this one was silent for {app.conf.broker_session_timeout:g} s"
        )
        asyncio.run_coroutine_threadsafe(app.crash(lost), self._thread.parent_loop)
        raise asyncio.CancelledError  # ends aiokafka's coordination


BatchConsumer.RebalanceListener = _RebalanceListener


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that aiokafka runs in."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        # as Faust does it, but for the isolation level, which it ties to its own transactions, and the fetch wait
        conf = self.app.conf
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            enable_auto_commit=False,
            auto_offset_reset=conf.consumer_auto_offset_reset,
            isolation_level="read_committed",
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Any:
        """As Faust does it, but where the records are few aiokafka, which fetches the next ones at once, is kept from
        that."""
        consumer.resume(*consumer.paused())
        found: Mapping[Any, Sequence[Any]] = {}
        try:
            found = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
            return found
        finally:
            ours = cast("BatchConsumer", self.consumer)
            ours.fetches_ahead = self._is_much(found.values())
            if not ours.fetches_ahead:
                consumer.pause(*consumer.assignment())

    def _is_much(self, fetched: Collection[Sequence[Any]]) -> bool:
        conf = self.app.conf
        if sum(map(len, fetched)) >= _AHEAD_RECORDS * conf.broker_max_poll_records:
            return True
        size = sum(len(record.key or b"") + len(record.value or b"") for record in chain.from_iterable(fetched))
        return size >= _AHEAD_BYTES * conf.consumer_max_fetch_size

    async def on_thread_stop(self) -> None:
        """Called in the thread, last."""
        try:
            await super().on_thread_stop()
        except asyncio.CancelledError:
            # aiokafka's fetcher lets the cancellation of its own task out when it stops while a broker is away; Faust
            # would not hear that the thread has ended, and wait for it for a minute
            self.log.warning("stopped while a broker was away")

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek all partitions to their committed offsets, those that have none to the first ones of the log.

        Not by aiokafka's own methods. They leave the latter where they are: behind records that were fetched and
        dropped, which would be lost. And they raise when a rebalance takes a partition away meanwhile.
        """
        committed: Mapping[TP, int] = await self.call_thread(self._seek_to_committed)
        return committed

    async def _seek_to_committed(self) -> Mapping[TP, int]:
        consumer = self._ensure_consumer()
        tps = list(consumer.assignment())
        committed = dict(zip(tps, await asyncio.gather(*map(consumer.committed, tps)), strict=True))
        new = [tp for tp, offset in committed.items() if not offset]
        firsts = await consumer.beginning_offsets(new) if new else {}
        for tp in consumer.assignment() & committed.keys():
            consumer.seek(tp, committed[tp] or firsts[tp])
        return committed

    async def start_position(self, tp: TP) -> int:
        """Where this generation starts to read: the committed offset, else the first one of the log."""
        position = (await self.positions([tp]))[tp]
        return position.first if position.committed is None else position.committed

    async def positions(self, tps: Collection[TP]) -> dict[TP, Position]:
        """Where these partitions stand."""
        found: dict[TP, Position] = await self.call_thread(self._positions, tps) if tps else {}
        return found

    async def _positions(self, tps: Collection[TP]) -> dict[TP, Position]:
        consumer = self._ensure_consumer()
        wanted = {tp: aiokafka.TopicPartition(*tp) for tp in tps}
        # the ends after the committed offsets, which must not be ahead of them
        committed = await asyncio.gather(*map(consumer.committed, wanted.values()))
        firsts = await consumer.beginning_offsets(list(wanted.values()))
        ends = await consumer.end_offsets(list(wanted.values()))
        return {
            tp: Position(offset, firsts[at], ends[at])
            for (tp, at), offset in zip(wanted.items(), committed, strict=True)
        }

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Whether the coordinator accepted `offsets` from us as a member of the group.

        Raises:
            KafkaError: it refused for another reason than a rebalance.
        """
        consumer = self._ensure_consumer()
        generation = consumer._coordinator.generation
        if generation == OffsetCommitRequest.DEFAULT_GENERATION_ID:
            return False  # the coordinator would not check it: an empty group takes commits from anyone
        try:
            await consumer.commit({aiokafka.TopicPartition(*tp): offset for tp, offset in offsets.items()})
        except (CommitFailedError, IllegalStateError):
            return False
        accepted: bool = consumer._coordinator.generation == generation
        return accepted


class NoTables(TableManager):
    """Faust's table manager, which also resumes the flow after a rebalance."""

    async def on_start(self) -> None:
        """As Faust does it, without the second that it waits for tables to be declared."""
        await self._update_channels()
        await self.recovery.start()


# the starts and stops of services are Faust's news, not the worker's
BatchConsumer.logger = driver.Consumer.logger
_ConsumerThread.logger = driver.AIOKafkaConsumerThread.logger
NoTables.logger = TableManager.logger


class Transport(driver.Transport):
    """Faust's transport with the consumer above."""

    Consumer = BatchConsumer


TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"


def _message(batch: Batch) -> ConsumerMessage:
    """Faust takes any value where its types say bytes, and the codec `raw` hands it on as it is."""
    last: Any = batch.records[-1]
    value: Any = batch
    return ConsumerMessage(
        batch.tp.topic,
        batch.tp.partition,
        last.offset,
        last.timestamp / 1000.0,
        last.timestamp_type,
        None,
        None,
        value,
        None,
        tp=batch.tp,
        generation_id=batch.generation,
    )
