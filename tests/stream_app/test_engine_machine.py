"""Whatever happens to two workers between any two of their steps, nothing is lost and nothing is applied twice."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from schemas import event, state
from schemas.item import item_hash
from schemas.state import RECENT_EVENT_IDS, kept_length
from stream_app import user_table
from stream_app.broker import NotOwner
from stream_app.store import Store
from tests.stream_app import world as worlds
from tests.stream_app.tiny_model import TinyModel
from tests.stream_app.world import LIST_LENGTH, PARTITIONS, WINDOW, Killed, Plan, Worker, World

ITEMS = [f"i{n}" for n in range(8)]
UNKNOWN_ITEM = "new"
NAMES = ("a", "b")
MEMORY = Path("/dev/shm")
"""a disk that is quick to flush"""
names = st.sampled_from(NAMES)
steps = st.integers(0, 14)
limits = st.sampled_from([1, 3, 50])
partition_sets = st.sets(st.integers(0, PARTITIONS - 1))


class EngineMachine(RuleBasedStateMachine):
    """Two workers over one log; every rule is something that production does to them."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.world = World(Path(self.disk.name))
        worlds.install(self.world)

    @initialize(
        with_model=st.booleans(), items=st.lists(st.sampled_from([*ITEMS, UNKNOWN_ITEM]), min_size=3, max_size=12)
    )
    def begin(self, with_model: bool, items: list[str]) -> None:
        if with_model:
            self.swap(len(ITEMS))
        for item in items:
            self.world.produce("u", item)
            self.world.produce("v", item)
        self.rebalance("a", set(range(PARTITIONS)))

    # the outside

    @rule(user=st.sampled_from(["u", "v", "w"]), items=st.lists(st.sampled_from([*ITEMS, UNKNOWN_ITEM]), max_size=9))
    def events(self, user: str, items: list[str]) -> None:
        for item in items:
            self.world.produce(user, item)

    @rule(user=st.sampled_from(["u", "w"]), event_id=st.sampled_from(["x", "y"]), item=st.sampled_from(ITEMS))
    def event_with_id(self, user: str, event_id: str, item: str) -> None:
        self.world.produce(user, item, event_id)

    @rule(user=st.sampled_from(["u", "w"]))
    def forget(self, user: str) -> None:
        self.world.produce(user, None)

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def rubbish(self, partition: int) -> None:
        self.world.produce_rubbish(partition)

    @rule(known=st.integers(3, len(ITEMS)))
    def swap(self, known: int) -> None:
        """Every running worker takes the new model between two rounds; a frozen one would wait for its lock."""
        world = self.world
        model = TinyModel(len(world.models) + 1, ITEMS[:known], decay=0.5 + 0.05 * len(world.models))
        world.models[model.version] = world.champion = model
        if world.first_model_at is None:
            world.first_model_at = {partition: len(log) for partition, log in world.log.items()}
        for worker in world.workers.values():
            if worker.thread is None:
                worker.engine.swap(model.load())

    @rule(count=st.integers(1, 3))
    def acknowledge_without_offset(self, count: int) -> None:
        self.world.forget_offsets = count

    # the workers

    def running(self, name: str) -> Worker | None:
        worker = self.world.workers.get(name)
        return worker if worker is not None and worker.thread is None else None

    @rule(name=names, partitions=partition_sets)
    def rebalance(self, name: str, partitions: set[int]) -> None:
        """Start a worker, or give one other partitions; a frozen one may lose its own to it."""
        if name not in self.world.workers:
            self.world.workers[name] = Worker(self.world, name)
        if (worker := self.running(name)) is not None:
            for other in NAMES:
                if other != name and (peer := self.running(other)) is not None:
                    self.survive(peer, lambda p=peer: p.own(set(p.positions) - partitions))
            self.survive(worker, lambda: worker.own(partitions))

    @rule(name=names, limit=limits)
    def work(self, name: str, limit: int) -> None:
        if (worker := self.running(name)) is not None:
            self.survive(worker, lambda: worker.work(limit))

    @rule(name=names, limit=limits, after=steps, lists_first=st.booleans(), look=st.booleans())
    def work_and_be_killed(self, name: str, limit: int, after: int, lists_first: bool, look: bool) -> None:
        if (worker := self.running(name)) is not None:
            self.world.lists_first = lists_first
            worker.plan = Plan(kill_after=after)
            self.survive(worker, lambda: worker.work(limit))
            if look:
                self.settle(name)

    @rule(name=names)
    def rebase(self, name: str) -> None:
        if (worker := self.running(name)) is not None:
            self.survive(worker, worker.rebase)

    @rule(name=names, after=steps, lists_first=st.booleans(), look=st.booleans())
    def rebase_and_be_killed(self, name: str, after: int, lists_first: bool, look: bool) -> None:
        if (worker := self.running(name)) is not None:
            self.world.lists_first = lists_first
            worker.plan = Plan(kill_after=after)
            self.survive(worker, worker.rebase_all)
            if look:
                self.settle(name)

    @rule(name=names, partitions=partition_sets, after=steps)
    def recover_and_be_killed(self, name: str, partitions: set[int], after: int) -> None:
        if (worker := self.running(name)) is not None:
            taken = {
                p
                for other in NAMES
                if other != name and self.running(other)
                for p in self.world.workers[other].positions
            }
            worker.plan = Plan(kill_after=after)
            self.survive(worker, lambda: worker.own(partitions - taken))

    @rule(name=names, limit=limits, after=steps, rebase=st.booleans())
    def freeze(self, name: str, limit: int, after: int, *, rebase: bool = False, only_states: bool = False) -> None:
        """The worker stops in the middle of a round or a slice, and its partitions are free for the other."""
        if (worker := self.running(name)) is not None:
            work = worker.rebase_all if rebase else lambda: worker.work(limit)
            if worker.freeze_in(after, work, only_states=only_states):
                for partition, owner in self.world.owner.items():
                    if owner == name:
                        self.world.owner[partition] = None
            elif worker.outcome is not None:
                self.end(worker, worker.outcome)

    @rule(name=names)
    def thaw(self, name: str) -> None:
        """A zombie goes on: at the latest its commit is refused, and it ends or joins again with nothing."""
        worker = self.world.workers.get(name)
        if worker is not None and worker.thread is not None:
            outcome = worker.thaw()
            if outcome is not None:
                self.end(worker, outcome)
            else:
                self.survive(worker, lambda: worker.own({p for p, o in self.world.owner.items() if o == name}))
            if self.world.champion is not None and self.running(name) is worker:
                worker.engine.swap(self.world.champion.load())

    @rule(
        name=names,
        limit=st.sampled_from([1, 3]),
        after=st.integers(0, 3),
        items=st.lists(st.sampled_from(ITEMS), max_size=5),
        before=st.booleans(),
        next_user=st.sampled_from(["u", "v", "w"]),
        next_events=st.integers(0, 3),
        look=st.booleans(),
        rebase=st.booleans(),
    )
    def zombie(
        self,
        name: str,
        limit: int,
        after: int,
        items: list[str],
        before: bool,
        next_user: str,
        next_events: int,
        look: bool,
        rebase: bool = False,
    ) -> None:
        """A worker freezes in a round or a slice, the other takes all and goes on, and then the first one wakes up."""
        other = next(n for n in NAMES if n != name)
        self.thaw(other)
        self.rebalance(name, set(range(PARTITIONS)))
        for item in items:
            self.world.produce("u", item)
            self.world.produce("w", item)
        if rebase:
            self.work(name, 50)
            self.swap(len(ITEMS))
        self.freeze(name, limit, after, rebase=rebase, only_states=True)
        self.rebalance(other, set(range(PARTITIONS)))
        if before:
            self.work(other, 50)
            self.thaw(name)
        else:
            self.thaw(name)
            self.work(other, 50)
        for _ in range(next_events):
            self.world.produce(next_user, ITEMS[0])
        self.work(other, 50)
        self.look_around(other)
        if look:
            self.settle(other)

    @rule(name=names)
    def look_around(self, name: str) -> None:
        if (worker := self.running(name)) is not None:
            self.survive(worker, worker.engine.check_idle)

    @rule(name=names)
    def leave(self, name: str) -> None:
        if (worker := self.running(name)) is not None:
            worker.leave()
            del self.world.workers[name]

    def survive(self, worker: Worker, action: object) -> None:
        try:
            action()  # type: ignore[operator]
        except (Killed, NotOwner) as outcome:
            self.end(worker, outcome)
        else:
            worker.plan = Plan()

    def end(self, worker: Worker, outcome: BaseException) -> None:
        if not isinstance(outcome, Killed | NotOwner):
            raise outcome
        worker.vanish()
        del self.world.workers[worker.name]

    # what must hold

    @rule(name=names)
    @precondition(lambda self: any(self.world.log.values()))
    def settle(self, name: str) -> None:
        """Let everyone finish, give all to one worker, and look."""
        for other in NAMES:
            self.thaw(other)
        for other in list(self.world.workers):
            self.leave(other)
        self.world.forget_offsets = 0
        worker = self.begin_anew(name)
        worker.engine.check_idle()
        check(self.world, worker)
        # all writers are gone and the owner has looked: from now on compaction may remove what it likes
        for partition in range(PARTITIONS):
            self.world.compact(partition)
        self.leave(name)
        shutil.rmtree(self.world.directory)
        check(self.world, self.begin_anew(name))

    def begin_anew(self, name: str) -> Worker:
        """A worker that owns everything and has processed everything."""
        worker = self.world.workers[name] = Worker(self.world, name)
        worker.own(set(range(PARTITIONS)))
        while any(worker.positions[p] < len(self.world.log[p]) for p in range(PARTITIONS)):
            worker.work(50)
        worker.rebase_all()
        return worker

    def teardown(self) -> None:
        if any(self.world.log.values()):
            self.settle("a")
        for worker in self.world.workers.values():
            if worker.thread is not None:
                worker.thaw(kill=True)
            worker.engine.close()
        self.disk.cleanup()


def check(world: World, worker: Worker) -> None:
    """The design's invariants, from the topics and the store alone."""
    for partition, log in world.log.items():
        users = fold_log(log)
        newest = world.newest(partition)
        assert {key: record.last_offset for key, record in users.items()} == {
            key: state.decode(value).last_offset for key, value in newest.items()
        }
        stored = worker.engine._table._stores[partition]
        assert dict(stored.items()) == newest, "the store and the changelog agree"
        assert stored.changelog_position == world.end[partition]
        assert world.committed[partition] == len(log)
        for key, expected in users.items():
            check_record(world, state.decode(newest[key]), expected)
        check_covered(world, partition, users)
        rubbish = {record.offset for record in log if record.value == b"\xc1"}
        assert set(world.dead_letters[partition]) == rubbish


class Expected:
    """A user's record by the plainest reading of the log."""

    def __init__(self) -> None:
        self.last_offset = -1
        self.items: list[int] = []
        self.events = 0
        self.event_ids: list[str] = []
        self.to_cover: list[int] = []


def fold_log(log: list[worlds.Record]) -> dict[bytes, Expected]:
    users: dict[bytes, Expected] = {}
    for record in log:
        if record.value == b"\xc1":
            continue
        assert record.key is not None
        user = users.setdefault(record.key, Expected())
        if record.value is None:
            users[record.key] = user = Expected()
            user.last_offset = record.offset
            continue
        decoded = event.decode(record.value, record.key, 0)
        if decoded.event_id is not None:
            if decoded.event_id in user.event_ids[-RECENT_EVENT_IDS:]:
                continue
            user.event_ids.append(decoded.event_id)
        user.last_offset = record.offset
        user.items.append(item_hash(decoded.item_id))
        user.events += 1
        user.to_cover.append(record.offset)
    return users


def check_record(world: World, record: state.StateRecord, expected: Expected) -> None:
    assert record.events == expected.events, "no event is lost or applied twice"
    kept = expected.items[len(expected.items) - kept_length(expected.events, WINDOW) :]
    assert record.item_hashes().tolist() == kept
    assert record.forgotten == (not kept)
    if kept and world.champion is not None:
        assert record.model_version == world.champion.version, "every user moves to the model in service"
        folded_state, query = world.models[record.model_version].fold(kept)
        np.testing.assert_allclose(np.frombuffer(record.state, "<f4"), folded_state, atol=1e-5)
        np.testing.assert_allclose(np.frombuffer(record.query, "<f4"), query, atol=1e-5)


def check_covered(world: World, partition: int, users: dict[bytes, Expected]) -> None:
    last: dict[bytes, tuple[int, worlds.Recommendation]] = {}
    for key, found in world.lists[partition]:
        if found is None:
            last.pop(key, None)
        elif key not in last or found.offset >= last[key][0]:
            last[key] = found.offset, found
    for key, expected in users.items():
        if world.first_model_at is None:
            continue
        if expected.to_cover and expected.to_cover[-1] >= world.first_model_at[partition]:
            assert key in last, "every event is covered"
            offset, found = last[key]
            assert offset == expected.to_cover[-1]
            kept = expected.items[len(expected.items) - kept_length(expected.events, WINDOW) :]
            assert [item for item, _ in found.items] == world.models[found.model].top(kept, LIST_LENGTH)
        if expected.events == 0:
            assert key not in last, "a forgotten user has no list"


@pytest.fixture(autouse=True)
def _plain_store_afterwards() -> Iterator[None]:
    yield
    user_table.Store = Store  # type: ignore[misc]


@pytest.mark.parametrize("zombie", NAMES)
@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("lists_first", [True, False])
def test_a_zombie_between_two_states_does_no_damage(zombie: str, after: int, before: bool, lists_first: bool) -> None:
    machine = EngineMachine()
    machine.begin(True, ITEMS[:3])
    machine.world.lists_first = lists_first
    machine.zombie(zombie, 1, after, ITEMS[1:2], before, "w", 2, True)
    machine.teardown()


@pytest.mark.parametrize("zombie", NAMES)
@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("lists_first", [True, False])
def test_a_zombie_in_the_background_does_no_damage(zombie: str, after: int, before: bool, lists_first: bool) -> None:
    machine = EngineMachine()
    machine.begin(True, ITEMS[:3])
    machine.world.lists_first = lists_first
    machine.zombie(zombie, 1, after, ITEMS[1:2], before, "w", 2, True, rebase=True)
    machine.teardown()


@pytest.mark.parametrize("after", range(15))
@pytest.mark.parametrize("lists_first", [True, False])
def test_a_worker_killed_in_the_background_loses_nothing(after: int, lists_first: bool) -> None:
    machine = EngineMachine()
    machine.begin(True, ITEMS[:3])
    machine.work("a", 50)
    machine.swap(len(ITEMS))
    machine.rebase_and_be_killed("a", after, lists_first, True)
    machine.teardown()


@pytest.mark.parametrize("after", range(15))
@pytest.mark.parametrize("lists_first", [True, False])
def test_a_worker_killed_between_two_steps_loses_nothing(after: int, lists_first: bool) -> None:
    machine = EngineMachine()
    machine.begin(True, ITEMS[:3])
    machine.work_and_be_killed("a", 50, after, lists_first, True)
    machine.teardown()


EngineMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestEngine = EngineMachine.TestCase
