"""Users move to a new model in the background: who, in which slices, and what they get."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from schemas import state
from schemas.item import item_hash
from schemas.recommendation import Cause, Recommendation
from schemas.state import StateRecord
from stream_app.engine import RoundFailed
from stream_app.rebasing import Rebasing
from tests.stream_app.tiny_model import TinyModel
from tests.stream_app.world import WINDOW, Worker, World

ITEMS = [f"i{n}" for n in range(8)]
USERS = "uvwxyz"
DAY_S = 86_400.0


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """It owns everything, serves the first model, and every user has a full history."""
    world = World(tmp_path)
    worker = begin(world, "a")
    swap(worker, 1)
    for user in USERS:
        for item in ITEMS[:WINDOW]:
            world.produce(user, item)
    worker.work(50)
    yield worker
    for running in world.workers.values():
        running.engine.close()


def begin(world: World, name: str) -> Worker:
    worker = world.workers[name] = Worker(world, name)
    worker.own({0, 1})
    return worker


def swap(worker: Worker, version: int, items: int = len(ITEMS)) -> TinyModel:
    world = worker.world
    model = world.models[version] = world.champion = TinyModel(version, ITEMS[:items], decay=0.5 + 0.05 * version)
    worker.engine.swap(model.load())
    return model


def records(world: World) -> dict[str, StateRecord]:
    """As the changelog has them."""
    return {key.decode(): state.decode(value) for p in world.log for key, value in world.newest(p).items()}


def versions(world: World) -> dict[str, int]:
    return {user: record.model_version for user, record in records(world).items()}


def sent(world: World, cause: Cause) -> dict[str, Recommendation]:
    """The lists that were sent for this reason: the last one of each user."""
    every = [found for lists in world.lists.values() for _, found in lists if found is not None]
    return {found.user_id: found for found in every if found.cause is cause}


def count(world: World, cause: Cause) -> int:
    return sum(found is not None and found.cause is cause for lists in world.lists.values() for _, found in lists)


def test_every_user_gets_a_state_and_a_list_of_the_new_model_once(worker: Worker) -> None:
    model = swap(worker, 2)
    worker.rebase_all()
    history = [item_hash(item) for item in ITEMS[:WINDOW]]
    folded, query = model.fold(history)
    found = records(worker.world)
    assert sorted(found) == sorted(USERS)
    for record in found.values():
        assert record.model_version == 2
        np.testing.assert_allclose(np.frombuffer(record.state, "<f4"), folded, atol=1e-5)
        np.testing.assert_allclose(np.frombuffer(record.query, "<f4"), query, atol=1e-5)
    lists = sent(worker.world, Cause.MODEL)
    assert sorted(lists) == sorted(USERS)
    assert count(worker.world, Cause.MODEL) == len(USERS)
    for user, made in lists.items():
        assert made.model == 2
        assert made.offset == found[user].last_offset
        assert [item for item, _ in made.items] == model.top(history, 3)


def test_a_slice_takes_as_many_histories_as_its_steps_allow_and_the_next_one_goes_on_behind_them(
    worker: Worker,
) -> None:
    swap(worker, 2)
    moved = []
    while worker.engine.rebasing:
        worker.rebase()
        moved.append(sum(version == 2 for version in versions(worker.world).values()))
    assert moved == [1, 2, 3, 4, 5, 6, 6]  # a slice has the steps of one history; the last finds nobody
    assert worker.engine.counters.rebased_in_background == len(USERS)
    assert worker.engine.counters.rebased == len(USERS)


def test_a_user_whose_last_event_is_older_than_the_window_stays_until_the_next_one(worker: Worker) -> None:
    worker.world.now_s = 8 * DAY_S
    worker.world.produce("v", ITEMS[4])
    worker.work(50)
    swap(worker, 2)
    worker.rebase_all()
    assert {user for user, version in versions(worker.world).items() if version == 2} == {"v"}
    assert set(sent(worker.world, Cause.MODEL)) == {"v"}
    worker.world.produce("u", ITEMS[5])
    worker.work(50)
    assert versions(worker.world)["u"] == 2


def test_with_a_window_of_nothing_no_user_moves_without_an_event(tmp_path: Path) -> None:
    world = World(tmp_path)
    worker = world.workers["a"] = Worker(world, "a", rebase_window_days=0)
    worker.own({0, 1})
    swap(worker, 1)
    world.produce("u", ITEMS[0])
    worker.work(50)
    swap(worker, 2)
    assert not worker.engine.rebasing
    worker.rebase()
    assert versions(world) == {"u": 1}
    worker.engine.close()


def test_users_who_came_before_the_first_model_get_a_list_of_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    worker = begin(world, "a")
    world.produce("u", ITEMS[0])
    worker.work(50)
    assert not worker.engine.rebasing
    model = swap(worker, 1)
    worker.rebase_all()
    [made] = sent(world, Cause.MODEL).values()
    assert [item for item, _ in made.items] == model.top([item_hash(ITEMS[0])], 3)
    worker.engine.close()


def test_a_forgotten_user_gets_nothing(worker: Worker) -> None:
    worker.world.produce("u", None)
    worker.work(50)
    swap(worker, 2)
    worker.rebase_all()
    assert set(sent(worker.world, Cause.MODEL)) == set(USERS) - {"u"}
    assert records(worker.world)["u"].forgotten


def test_a_user_without_a_known_item_gets_a_list(worker: Worker) -> None:
    swap(worker, 2)
    unknown = TinyModel(3, [f"other{n}" for n in range(5)])
    worker.engine.swap(unknown.load())
    worker.rebase_all()
    for made in sent(worker.world, Cause.MODEL).values():
        assert [item for item, _ in made.items] == unknown.top([], 3)


def test_events_between_slices_are_applied_as_ever_and_their_users_move_once(worker: Worker) -> None:
    model = swap(worker, 2)
    while worker.engine.rebasing:
        worker.rebase()
        for user in USERS:
            worker.world.produce(user, ITEMS[5])
        worker.work(50)
    assert count(worker.world, Cause.MODEL) == len(USERS)  # no event moves a user whom the walk will
    for user, record in records(worker.world).items():
        assert record.model_version == 2
        folded, _ = model.fold([int(item) for item in record.item_hashes()])
        np.testing.assert_allclose(np.frombuffer(record.state, "<f4"), folded, atol=1e-5, err_msg=user)


def test_another_swap_in_the_middle_starts_anew_for_everyone(worker: Worker) -> None:
    swap(worker, 2)
    worker.rebase()
    worker.rebase()
    assert sorted(versions(worker.world).values()) == [1, 1, 1, 1, 2, 2]
    swap(worker, 3)
    worker.rebase_all()
    assert set(versions(worker.world).values()) == {3}
    lists = sent(worker.world, Cause.MODEL)
    assert {made.model for made in lists.values()} == {3}
    assert count(worker.world, Cause.MODEL) == 2 + len(USERS)


def test_who_has_an_event_behind_the_walk_moves_with_it(worker: Worker) -> None:
    world = worker.world
    last = max(user for user in USERS if owner(world, user) == 1)
    world.now_s += 8 * 86_400
    world.produce(last, ITEMS[5])
    worker.work(50)
    swap(worker, 2)
    worker.rebase()
    assert worker.engine.rebasing
    assert {user for user, version in versions(world).items() if version == 2} == {last}
    world.produce(USERS[0], ITEMS[5])
    worker.work(50)
    assert versions(world)[USERS[0]] == 2


def test_another_swap_in_the_middle_leaves_events_to_the_models_that_their_states_have(worker: Worker) -> None:
    world = worker.world
    swap(worker, 2)
    worker.rebase()
    before = versions(world)
    assert set(before.values()) == {1, 2}
    swap(worker, 3)
    for user in USERS:
        world.produce(user, ITEMS[5])
    worker.work(50)
    assert versions(world) == before
    worker.rebase_all()
    assert set(versions(world).values()) == {3}


def test_a_partition_that_goes_is_left_out_and_one_that_comes_is_walked(worker: Worker) -> None:
    world = worker.world
    swap(worker, 2)
    worker.own({0})
    worker.rebase_all()
    assert {versions(world)[user] for user in USERS if owner(world, user) == 0} == {2}
    assert {versions(world)[user] for user in USERS if owner(world, user) == 1} == {1}
    worker.own({0, 1})
    worker.rebase_all()
    assert set(versions(world).values()) == {2}
    assert count(world, Cause.MODEL) == len(USERS)


def owner(world: World, user: str) -> int:
    return next(p for p, log in world.log.items() if any(record.key == user.encode() for record in log))


def test_a_restarted_worker_goes_on_with_those_who_are_left(worker: Worker) -> None:
    world = worker.world
    swap(worker, 2)
    worker.rebase()
    worker.leave()
    begin(world, "a").rebase_all()
    assert set(versions(world).values()) == {2}
    assert count(world, Cause.MODEL) == len(USERS)


def test_what_another_writer_put_behind_the_walk_is_walked_again(worker: Worker) -> None:
    world = worker.world
    partition = owner(world, "u")
    of_first_model = [entry for entry in world.changelog[partition] if entry.key == b"u"][-1]
    swap(worker, 2)
    worker.rebase_all()
    world.changelog[partition].append(of_first_model._replace(offset=world.end[partition]))
    world.end[partition] += 1
    worker.engine.check_idle()
    assert versions(world)["u"] == 1
    worker.rebase_all()
    assert set(versions(world).values()) == {2}


def test_a_failure_names_the_setting_that_goes_on_without(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    swap(worker, 2)
    monkeypatch.setattr(worker.engine, "_compute", fail)
    with pytest.raises(RoundFailed, match=r"a defect.*--rebase-window-days 0"):
        worker.rebase()
    assert set(versions(worker.world).values()) == {1}


def test_the_previous_model_is_let_go_when_everyone_has_moved(worker: Worker) -> None:
    second = TinyModel(2, ITEMS).load()
    gone = weakref.ref(second)
    worker.engine.swap(second)
    del second
    worker.rebase_all()
    swap(worker, 3)
    worker.rebase()
    assert gone() is not None
    worker.rebase_all()
    assert gone() is None


class Store:
    """A partition of users with encoded records, and the time that looking at one takes."""

    def __init__(self, users: int) -> None:
        self.now_s = 0.0
        self.look_s = 0.0
        self.record = state.encode(StateRecord(1, 0, 0, 100, bytes(800), bytes(400), bytes(100)))
        self.keys = [b"%06d" % user for user in range(users)]

    def scan(self, _: int, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in self.keys:
            if key > after:
                self.now_s += self.look_s
                yield key, self.record


def test_slices_grow_or_shrink_to_the_time_that_they_may_take() -> None:
    store = Store(10_000)
    rebasing = Rebasing(7, 20_000, lambda _: 10_000, clock=lambda: store.now_s)
    rebasing.begin([0])
    for step_s, histories in ((2e-6, 100), (1e-5, 20), (5e-7, 200), (1.0, 10)):  # at most 20,000 steps, at least 1,000
        for _ in range(2):
            picked, steps = rebasing.pick(store.scan, 2, 0.0, 0.02)
            rebasing.moved(len(picked[0]), steps, steps * step_s)
        assert len(picked[0]) == histories


def test_looking_at_users_who_stay_takes_half_of_a_slice_at_most() -> None:
    store = Store(10_000)
    store.look_s = 1e-4
    rebasing = Rebasing(7, 20_000, lambda _: 10_000, clock=lambda: store.now_s)
    rebasing.begin([0])
    slices, ratios = 0, [0.0]
    while rebasing.under_way:
        began = store.now_s
        picked, steps = rebasing.pick(store.scan, 1, 0.0, 0.02)
        rebasing.moved(0, steps, store.now_s - began)
        assert not picked
        assert store.now_s - began < 0.017
        slices += 1
        ratios.append(rebasing.ratio)
    assert slices > 50
    assert ratios == sorted(ratios)
    assert ratios[len(ratios) // 2] == pytest.approx(0.5, abs=0.05)
    assert ratios[-1] == 1
