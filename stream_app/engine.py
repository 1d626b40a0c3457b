"""The engine: from fetched events to durable states and acknowledged lists. Knows no Faust.

One lock: rounds, ownership changes and swaps never overlap. After any exception the process must end, uncommitted: the
events come again, and what a store has of them already is not applied twice.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from schemas import state
from schemas.malformed import Malformed
from schemas.placement import misplaced
from schemas.recommendation import Cause
from schemas.settings import Refused
from schemas.state import NO_MODEL, StateRecord
from stream_app.advance import Advanced, Change, advance
from stream_app.broker import Broker, BrokerAway, Confirm, DeadLetter, NotOwner, Outgoing, Record
from stream_app.counters import Counters, Stage, Stopwatch
from stream_app.fold import Folded, fold
from stream_app.intake import stray_letters, take_in
from stream_app.lists import Wanted, encode_json, encode_msgpack
from stream_app.model import Model
from stream_app.rebasing import Rebasing
from stream_app.settings import WorkerSettings
from stream_app.shares import share_out
from stream_app.user_table import UserTable

_ATTEMPTS: Final = 3
_REBASE_S: Final = 0.01
"""of a round, about, for users of a previous model who have an event and to whom no walk will come"""
_MOST_PREVIOUS: Final = 2
"""models beside the one in service, where one comes before the walk to the last one is over"""
_OWN_STAGES: Final = {Stage.INTAKE, Stage.ADVANCE, Stage.COMPUTE, Stage.ENCODE}
"""in which a failure comes from the records, not from Kafka or the disk"""
_log = structlog.get_logger()


class RoundFailed(Exception):
    """A record cannot be processed; the message names it, and the setting that puts it aside."""


class _User(NamedTuple):
    """One user's part of a round."""

    partition: int
    key: bytes
    advanced: Advanced
    model: Model | None


class Engine:
    """Advances the users of the partitions it owns."""

    def __init__(
        self,
        settings: WorkerSettings,
        broker: Broker,
        confirm: Confirm,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Own nothing yet and serve no model.

        Args:
            settings: the worker's.
            broker: the output topics and the changelog.
            confirm: asks the group whether a partition is still ours.
            clock: seconds since the epoch, for the lists' `emitted_at`.
        """
        self.counters = Counters()
        self.stopwatch = Stopwatch()
        self._window = settings.history_length
        self._list_length = settings.list_length
        self._encode = encode_json if settings.list_format == "json" else encode_msgpack
        self._every = settings.emit == "every"
        self._skipped = {tuple(map(int, place.split(":"))) for place in settings.skip_records.split(",") if place}
        self._decode = settings.event_codec.decode
        self._broker = broker
        self._confirm = confirm
        self._clock = clock
        self._table = UserTable(store_directory(settings), broker, confirm, settings.history_length, settings.cache_mib)
        self._rebasing = Rebasing(settings.rebase_window_days, settings.rebase_steps, self._table.estimated_users)
        self._model: Model | None = None
        self._previous: Sequence[Model] = ()
        """newest first: they go on with states of theirs that are not moved yet"""
        self._unavailable: Collection[int] = ()
        self._threads = settings.threads
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="compute")
        self._lock = threading.Lock()

    @property
    def model_version(self) -> int | None:
        """Version of the model in service."""
        return self._model.version if self._model else None

    @property
    def partitions(self) -> list[int]:
        """The partitions that are open."""
        return self._table.partitions

    @property
    def rebasing(self) -> bool:
        """Whether users may be left to move to the model in service in the background."""
        return self._rebasing.under_way

    @property
    def rebasing_ratio(self) -> float:
        """Share of the users that were looked at for that, about; 1 when it is over."""
        return self._rebasing.ratio

    @property
    def progressed_at(self) -> float:
        """When the engine last came a step further, also within a recovery; monotonic seconds."""
        return max(self.stopwatch.since, self._table.replayed_at)

    @property
    def input_positions(self) -> dict[int, int]:
        """The next input offset of each open partition, as its store has it; 0 in a new one."""
        return {partition: self._table.input_position(partition) for partition in self._table.partitions}

    def own(self, partitions: Collection[int], begun: Collection[int] = ()) -> int:
        """Open and recover exactly these partitions, close all others.

        Args:
            partitions: what is owned from now on.
            begun: those of which events are done already, so that there must be states.

        Returns:
            changelog records that were read.

        Raises:
            Refused: a store does not fit the topics.
            NotOwner: the group gave a partition to another worker meanwhile.
        """
        with self._lock:
            for partition in set(self._table.partitions) - set(partitions):
                self._table.close(partition)
                self._rebasing.drop(partition)
            new = set(partitions) - set(self._table.partitions)
            self.stopwatch.enter(Stage.RECOVER)
            self._refuse_lost_changelog(set(begun) & new)
            recovered = self._table.open(new)
            self._send_again({partition: recovery.healed for partition, recovery in recovered.items()})
            if self._model is not None:
                self._rebasing.add(sorted(new))
            self.stopwatch.enter(None)
            records = sum(recovery.records for recovery in recovered.values())
            self.counters.recovered += records
            return records

    def process(self, batches: Mapping[int, Sequence[Record]]) -> None:
        """One round: apply the records of several partitions, each in offset order. All is durable when it returns.

        Raises:
            NotOwner: the group gave a partition to another worker.
            RoundFailed: a record cannot be processed.
            Exception: anything else that must end the process.
        """
        with self._lock:
            try:
                self._round(batches, {}, Cause.REPLAY)
            except (Refused, OSError):
                raise  # the store, not a record
            except Exception as error:
                if self.stopwatch.stage not in _OWN_STAGES or (place := self._failing(batches)) is None:
                    raise
                raise RoundFailed(
                    f"record {place} (partition:offset) fails: {error!r}; should it fail again after a restart, "
                    f"--skip-records {place} makes a dead letter of it"
                ) from error

    def rebase(self, budget_s: float) -> None:
        """A slice of the way to the model in service: some users move to it, without an event, and get their lists.

        Where the way ends, previous models are let go: the records that still have one, of users who were not active
        lately, are folded again when their users come.

        Args:
            budget_s: what it may take, about.

        Raises:
            NotOwner: the group gave a partition to another worker.
            RoundFailed: a user cannot be moved.
            Exception: anything else that must end the process.
        """
        with self._lock:
            if self._model is None or not self._rebasing.under_way:
                return
            started = time.monotonic()
            self.stopwatch.enter(Stage.WALK)
            picked, steps = self._rebasing.pick(self._table.items, self._model.version, self._clock() * 1000, budget_s)
            try:
                if picked:
                    self._round(dict.fromkeys(picked, ()), picked, Cause.MODEL)
            except (Refused, OSError):
                raise
            except Exception as error:
                if self.stopwatch.stage not in _OWN_STAGES:
                    raise
                raise RoundFailed(
                    f"users of partitions {sorted(picked)} cannot move to model {self._model.version}: {error!r}; "
                    "--rebase-window-days 0 leaves all users until their next event"
                ) from error
            self.stopwatch.enter(None)
            seconds, users = self.stopwatch.since - started, sum(map(len, picked.values()))
            self.counters.rebased_in_background += users
            self.counters.slice_s.observe(seconds)
            self._rebasing.moved(users, steps, seconds)
            if not self._rebasing.under_way:
                self._previous = ()

    def swap(self, model: Model) -> None:
        """Serve `model` from the next round on; states of the present one move over as `rebase` comes to them."""
        with self._lock:
            model.set_unavailable(self._unavailable)
            if self._model is not None:
                unmoved = self._previous if self._rebasing.under_way else ()
                self._previous = (self._model, *unmoved)[:_MOST_PREVIOUS]
            self._model = model
            self._rebasing.begin(self._table.partitions)
            self.counters.swaps += 1

    def set_unavailable(self, item_hashes: Collection[int]) -> None:
        """From the next round on these items are in no list; all others may be."""
        with self._lock:
            self._unavailable = item_hashes
            for model in self._models:
                model.set_unavailable(item_hashes)

    def check_idle(self) -> None:
        """Look whether another writer was on a changelog, also where no events come, and heal.

        Raises:
            NotOwner: the group gave a partition to another worker.
        """
        with self._lock:
            overtaken = [partition for partition in self._table.partitions if self._overtaken(partition)]
            self._send_again({partition: self._heal(partition) for partition in overtaken})
            self.stopwatch.enter(None)

    def close(self) -> None:
        """Wait for the running round and close the stores."""
        with self._lock:
            for partition in self._table.partitions:
                self._table.close(partition)
            self._pool.shutdown()

    def _refuse_lost_changelog(self, begun: Collection[int]) -> None:
        """A partition's states are on the changelog before its first offset is committed."""
        if empty := sorted(partition for partition in begun if self._broker.changelog_range(partition)[1] == 0):
            raise Refused(
                f"the changelog has nothing in partitions {empty}, of which events are done: `python -m ops reset` "
                "processes the log again, --on-lost-events continue goes on without their states"
            )

    def _overtaken(self, partition: int) -> bool:
        self.stopwatch.enter(Stage.CHECK)
        try:
            return self._table.overtaken(partition)
        except BrokerAway as away:
            _log.warning("the changelog cannot be looked at", partition=partition, error=str(away))
            return False

    def _send_again(self, users: Mapping[int, Collection[bytes]]) -> None:
        if any(users.values()):
            self._round(dict.fromkeys(users, ()), users, Cause.HEAL)

    def _failing(self, batches: Mapping[int, Sequence[Record]]) -> str | None:
        """The first record that fails on its own, as partition:offset."""
        for partition, records in batches.items():
            for record in records:
                try:
                    self._round({partition: [record]}, {}, Cause.REPLAY, rehearsal=True)
                except Exception:
                    return f"{partition}:{record.offset}"
        return None

    def _heal(self, partition: int) -> Collection[bytes]:
        healed = self._table.heal(partition).healed
        self.counters.healed += len(healed)
        if self._model is not None:
            self._rebasing.add([partition])  # what was taken in may be of any model
        _log.warning("another worker wrote to the changelog, healed", partition=partition, users=len(healed))
        return healed

    def _round(
        self,
        batches: Mapping[int, Sequence[Record]],
        owed: Mapping[int, Collection[bytes]],
        again: Cause,
        *,
        rehearsal: bool = False,
    ) -> None:
        """Steps 1 to 6; starts over for partitions on which another writer is found.

        Args:
            batches: records by partition.
            owed: users by partition who get a list without an event.
            again: why users get a list although none of their events is new.
            rehearsal: compute, and send and keep nothing.
        """
        letters: dict[int, list[DeadLetter]] | None = None
        size, started = sum(map(len, batches.values())), time.monotonic()
        for _ in range(_ATTEMPTS):
            self.stopwatch.enter(Stage.INTAKE)
            intakes = {
                partition: take_in(
                    records, self._table.input_position(partition), self._skipped_of(partition), self._decode
                )
                for partition, records in batches.items()
            }
            self.stopwatch.enter(Stage.ADVANCE)
            users, strays = self._advance(
                {
                    partition: {**dict.fromkeys(owed.get(partition, ()), ()), **intake.changes}
                    for partition, intake in intakes.items()
                },
                again,
            )
            if letters is None:  # sent once, however often the round starts over
                letters = {
                    partition: [*intake.dead_letters, *stray_letters(batches[partition], intake, strays[partition])]
                    for partition, intake in intakes.items()
                }
            else:
                letters = {}
            states, lists = self._answer(users)
            if rehearsal:
                return
            outgoing = {
                partition: Outgoing(lists[partition], list(states[partition].items()), letters.get(partition, ()))
                for partition in batches
            }
            self.stopwatch.enter(Stage.SEND)
            offsets = self._broker.send(outgoing)
            self._measure_latency(batches)
            self.stopwatch.enter(Stage.STORE)
            contended = [
                partition
                for partition, intake in intakes.items()
                if not self._table.store(partition, states[partition], offsets[partition], intake.position)
            ]
            self._count(users, outgoing, contended)
            if not contended:
                self.stopwatch.enter(None)
                if size:
                    self.counters.round_records.observe(size)
                    self.counters.round_s.observe(self.stopwatch.since - started)
                return
            owed = {partition: {*owed.get(partition, ()), *self._heal(partition)} for partition in contended}
            batches, again = {partition: batches[partition] for partition in contended}, Cause.HEAL
        raise NotOwner(f"another worker keeps writing to changelog partitions {sorted(batches)}")

    def _advance(
        self, changes: Mapping[int, Mapping[bytes, Sequence[Change]]], again: Cause
    ) -> tuple[list[_User], dict[int, dict[bytes, Malformed]]]:
        """Steps 2 and 3, all but the arithmetic: the users with what is to be folded and the lists they are owed.

        Also, by partition, who has no record there because another partition is theirs, see `schemas.placement`.
        """
        users: list[_User] = []
        strays: dict[int, dict[bytes, Malformed]] = defaultdict(dict)
        partitions = self._broker.identity().partitions
        most_steps, rebase_steps = self._rebasing.steps_within(_REBASE_S), 0
        for partition, by_key in changes.items():
            keys = list(by_key)
            for key, value in zip(keys, self._table.get(partition, keys), strict=True):
                if value is None and (wrong := misplaced(key, partition, partitions)):
                    strays[partition][key] = wrong
                    continue
                record = StateRecord() if value is None else state.decode(value)
                move = again is Cause.MODEL or (
                    rebase_steps < most_steps and not self._rebasing.will_come_to(partition, key)
                )
                model, rebase = self._model_for(record, move=move)
                if rebase and record.model_version != NO_MODEL:
                    rebase_steps += record.history_length
                    self.counters.rebased += 1
                advanced = advance(record, by_key[key], self._window, rebase=rebase, every=self._every, again=again)
                users.append(_User(partition, key, advanced, model))
        return users, strays

    @property
    def _models(self) -> Sequence[Model]:
        return () if self._model is None else (self._model, *self._previous)

    def _model_for(self, record: StateRecord, *, move: bool) -> tuple[Model | None, bool]:
        """The model that goes on with a record, and whether it must fold the history again for that."""
        if self._model is None or record.model_version == self._model.version:
            return self._model, False
        if not move:
            for model in self._previous:
                if record.model_version == model.version:
                    return model, False
        return self._model, True

    def _answer(
        self, users: Sequence[_User]
    ) -> tuple[dict[int, dict[bytes, bytes]], dict[int, list[tuple[bytes, bytes | None]]]]:
        """Step 4: fold and rank; the encoded states and lists by partition."""
        self.stopwatch.enter(Stage.ENCODE)
        states: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        lists: dict[int, list[tuple[bytes, bytes | None]]] = defaultdict(list)
        for user in users:
            if user.advanced.forgotten:
                lists[user.partition].append((user.key, None))
            if user.advanced.changed and (user.model is None or user.advanced.record.forgotten):
                states[user.partition][user.key] = state.encode(user.advanced.record)
        for model in self._models:
            self._answer_with(model, [user for user in users if user.model is model], states, lists)
        return states, lists

    def _answer_with(
        self,
        model: Model,
        users: Sequence[_User],
        states: Mapping[int, dict[bytes, bytes]],
        lists: Mapping[int, list[tuple[bytes, bytes | None]]],
    ) -> None:
        shares = [
            [users[index] for index in share] for share in share_out([user.advanced for user in users], self._threads)
        ]
        self.stopwatch.enter(Stage.COMPUTE)
        answers = (map if len(shares) == 1 else self._pool.map)(partial(self._compute, model), shares)
        for share, (folded, rows, scores) in zip(shares, answers, strict=True):
            self.stopwatch.enter(Stage.ENCODE)
            wanted: list[Wanted] = []
            states_end = queries_end = 0
            state_bytes, query_bytes = 4 * model.state_floats, 4 * model.width
            all_states, all_queries = folded.states.tobytes(), folded.queries.tobytes()
            for partition, key, advanced, _ in share:
                states_end += state_bytes * len(advanced.segments)
                queries_end += query_bytes * len(advanced.segments)
                if advanced.changed and not advanced.record.forgotten:
                    states[partition][key] = state.encode_folded(
                        advanced.record,
                        model.version,
                        all_states[states_end - state_bytes : states_end],
                        all_queries[queries_end - query_bytes : queries_end],
                    )
                for owed in advanced.owed:
                    wanted.append((key, partition, owed))
            values = self._encode(model, wanted, rows, scores, int(self._clock() * 1000))
            for (key, partition, _owed), value in zip(wanted, values, strict=True):
                lists[partition].append((key, value))
            self.stopwatch.enter(Stage.COMPUTE)

    def _compute(self, model: Model, users: Sequence[_User]) -> tuple[Folded, NDArray[np.int32], NDArray[np.float32]]:
        """Fold the users' segments and rank a list for each mark: rows and scores; in any thread."""
        folded = fold(model, [segment for user in users for segment in user.advanced.segments])
        return folded, *model.rank(folded.marked, folded.seen, folded.seen_lengths, self._list_length)

    def _count(self, users: Sequence[_User], outgoing: Mapping[int, Outgoing], contended: Collection[int]) -> None:
        counters = self.counters
        for sent in outgoing.values():
            counters.lists += len(sent.lists) - [value for _, value in sent.lists].count(None)
            counters.dead_letters.update(letter.field for letter in sent.dead_letters)
        done = [user.advanced for user in users if user.partition not in contended]
        counters.events += sum([advanced.applied for advanced in done])
        counters.repeated += sum([advanced.repeated for advanced in done])
        counters.replayed += sum([advanced.replayed for advanced in done])
        counters.late += sum([advanced.late for advanced in done])

    def _measure_latency(self, batches: Mapping[int, Sequence[Record]]) -> None:
        if self._model is not None:
            now_ms = self._clock() * 1000
            sent_ms = Counter(record.timestamp_ms for records in batches.values() for record in records)
            for timestamp_ms, events in sent_ms.items():
                self.counters.event_to_list_s.observe(max(0.0, now_ms - timestamp_ms) / 1000, events)

    def _skipped_of(self, partition: int) -> Collection[int]:
        return {offset for skipped, offset in self._skipped if skipped == partition}


def store_directory(settings: WorkerSettings) -> Path:
    """Where a worker keeps the stores of its partitions."""
    return settings.data_dir / settings.app / settings.worker_id
