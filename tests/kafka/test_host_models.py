"""Models and availability in a real worker: at its start, between two rounds, and bad ones."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from schemas import event, item, recommendation, state
from schemas.event import Event
from schemas.item import Item
from schemas.recommendation import Cause, Recommendation
from schemas.settings import Settings
from tests.kafka.balance import assert_balanced, is_caught_up, read_topic
from tests.kafka.stream import ITEMS, Stream, announce, publish_model, send, send_events
from tests.kafka.worker_process import WorkerProcess, wait_until

OWNS = "owns partitions"
SERVES = "model in service"
MOVED = "moved to the model in service"
REFUSED = "model refused, the one in service goes on"
_DAY_MS = 86_400_000


def lists(settings: Settings) -> list[Recommendation]:
    """All lists, by partition in order."""
    return [recommendation.decode(message.value()) for message in read_topic(settings, settings.recommendations)]


def lists_of(settings: Settings, version: int) -> Callable[[], bool]:
    """Whether a model has made a list in every partition."""
    every = set(range(settings.partitions))
    return lambda: {made.partition for made in lists(settings) if made.model == version} == every


def models_by_user(settings: Settings) -> dict[str, list[int]]:
    """The models of each user's lists, in order."""
    models = defaultdict(list)
    for made in lists(settings):
        models[made.user_id].append(made.model)
    return models


def test_the_first_list_is_made_by_the_champion(created: Settings, tmp_path: Path) -> None:
    publish_model(created, tmp_path, version=1)
    publish_model(created, tmp_path, version=2)
    send_events(created, 100)
    with WorkerProcess(created, tmp_path):
        wait_until(lambda: is_caught_up(created), "everything committed")
    assert {made.model for made in lists(created)} == {2}


def test_without_a_model_histories_are_kept_and_no_lists_sent(created: Settings, tmp_path: Path) -> None:
    send_events(created, 100)
    with WorkerProcess(created, tmp_path):
        wait_until(lambda: is_caught_up(created), "everything committed")
    assert lists(created) == []
    counted = {
        m.key(): state.decode(m.value()).events for m in read_topic(created, created.changelog) if m.key()[0] < 255
    }
    assert sum(counted.values()) == 100


def test_no_event_goes_without_a_list_when_a_start_finds_no_artefact_store(created: Settings, tmp_path: Path) -> None:
    publish_model(created, tmp_path, version=1)
    store = tmp_path / "artefacts"
    away = store.rename(tmp_path / "elsewhere")
    send_events(created, 100)
    with WorkerProcess(created, tmp_path) as worker:
        worker.wait_for("the artefact store is asked again")
        away.rename(store)
        wait_until(lambda: is_caught_up(created), "everything committed")
        assert worker.stop() == 0
    assert_balanced(created)


def test_events_go_on_while_models_are_swapped_forth_and_back(created: Settings, tmp_path: Path) -> None:
    older = publish_model(created, tmp_path, version=1)
    with WorkerProcess(created, tmp_path) as worker:
        with Stream(created):
            worker.wait_for(OWNS)
            wait_until(lists_of(created, 1), "lists of the first model")
            publish_model(created, tmp_path, version=2)
            worker.wait_for(SERVES, times=2)
            wait_until(lists_of(created, 2), "lists of the second model")
            announce(created, older.model_dump_json().encode())
            assert worker.wait_for(SERVES, times=3)["model"] == 1
        wait_until(lambda: is_caught_up(created), "everything committed")
        wait_until(lambda: all(of[-1] == 1 for of in models_by_user(created).values()), "everyone is back")
        assert worker.stop() == 0
    assert_balanced(created)
    for models in models_by_user(created).values():
        changes = [model for before, model in zip([0, *models], models, strict=False) if model != before]
        assert changes in ([1], [1, 2, 1], [2, 1])  # who had not moved yet when the first one came back did not


def test_a_bad_model_is_refused_while_the_old_one_serves(created: Settings, tmp_path: Path) -> None:
    publish_model(created, tmp_path, version=1)
    with WorkerProcess(created, tmp_path) as worker:
        worker.wait_for(OWNS)
        announce(created, b"no manifest")
        worker.wait_for(REFUSED)
        send_events(created, 100)
        wait_until(lambda: is_caught_up(created), "everything committed")
        assert worker.stop() == 0
    assert_balanced(created)


def test_an_unavailable_item_is_in_no_list(created: Settings, tmp_path: Path) -> None:
    publish_model(created, tmp_path, version=1)
    send_events(created, 100)
    with WorkerProcess(created, tmp_path) as worker:
        wait_until(lambda: is_caught_up(created), "everything committed")
        popular = {item_id for made in lists(created) for item_id, _ in made.items}
        before = len(lists(created))
        send(created, created.items, *((item_id, item.encode(Item(available=False))) for item_id in popular))
        worker.wait_for("items unavailable")
        send_events(created, 100)
        wait_until(lambda: is_caught_up(created), "everything committed")
        assert worker.stop() == 0
    with WorkerProcess(created, tmp_path):  # known before the first round after a restart
        send_events(created, 100)
        wait_until(lambda: is_caught_up(created), "everything committed")
    made = sorted(lists(created), key=lambda made: made.emitted_at_ms)
    assert len(made) == 3 * before
    assert not popular & {item_id for later in made[before:] for item_id, _ in later.items}


def test_users_active_lately_get_a_list_of_a_new_model_without_an_event(created: Settings, tmp_path: Path) -> None:
    publish_model(created, tmp_path, version=1)
    now_ms = int(time.time() * 1000)
    active, away = [f"active{n}" for n in range(200)], [f"away{n}" for n in range(50)]
    events = [
        (user, event.encode(Event(user, item_id, now_ms - (8 * _DAY_MS if user in away else _DAY_MS))))
        for item_id in ITEMS[:20]
        for user in (*active, *away)
    ]
    send(created, created.interactions, *events)
    with WorkerProcess(created, tmp_path) as worker:
        wait_until(lambda: is_caught_up(created), "everything committed")
        publish_model(created, tmp_path, version=2)
        moved = worker.wait_for(MOVED, times=2)  # the first one at the start: nobody is there yet
        assert moved["users"] == len(active)
        assert worker.stop() == 0
    assert_balanced(created)
    of_second = [made for made in lists(created) if made.model == 2]
    assert {made.cause for made in of_second} == {Cause.MODEL}
    assert sorted(made.user_id for made in of_second) == sorted(active)
    last_event = {
        record.user_id: record.offset for record in lists(created) if record.cause is Cause.EVENT and record.model == 1
    }
    assert {made.user_id: made.offset for made in of_second} == {user: last_event[user] for user in active}
    versions = {
        m.key().decode(): state.decode(m.value()).model_version
        for m in read_topic(created, created.changelog)
        if m.key()[0] < 255
    }
    assert versions == dict.fromkeys(active, 2) | dict.fromkeys(away, 1)


def test_events_are_answered_between_slices_of_a_walk(created: Settings, tmp_path: Path) -> None:
    publish_model(created, tmp_path, version=1)
    users = [f"still{n}" for n in range(4_000)]
    now_ms = int(time.time() * 1000)
    for item_id in ITEMS[:10]:
        send(created, created.interactions, *((user, event.encode(Event(user, item_id, now_ms))) for user in users))
    with WorkerProcess(created, tmp_path) as worker:
        wait_until(lambda: is_caught_up(created), "everything committed")
        with Stream(created, events_per_s=200.0):
            wait_until(lambda: any(made.user_id.startswith("u") for made in lists(created)), "live lists")
            publish_model(created, tmp_path, version=2)
            worker.wait_for(MOVED, times=2)
        wait_until(lambda: is_caught_up(created), "everything committed")
        assert worker.stop() == 0
    assert_balanced(created)
    made = sorted(lists(created), key=lambda made: made.emitted_at_ms)
    moved_ms = [found.emitted_at_ms for found in made if found.cause is Cause.MODEL]
    during = [
        found.emitted_at_ms - found.timestamp_ms
        for found in made
        if found.cause is Cause.EVENT and moved_ms[0] <= found.emitted_at_ms <= moved_ms[-1]
    ]
    assert len(moved_ms) > len(users) / 2
    assert len(set(moved_ms)) > 10  # in many slices
    assert len(during) > 10  # events came between them
    assert statistics.median(during) < (moved_ms[-1] - moved_ms[0]) / 4
