"""Models and availability in a real worker: at its start, between two rounds, and bad ones."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from schemas import item, recommendation, state
from schemas.item import Item
from schemas.recommendation import Recommendation
from schemas.settings import Settings
from tests.kafka.balance import assert_balanced, is_caught_up, read_topic
from tests.kafka.stream import Stream, announce, publish_model, send, send_events
from tests.kafka.worker_process import WorkerProcess, wait_until

OWNS = "owns partitions"
SERVES = "model in service"
REFUSED = "model refused, the one in service goes on"


def lists(settings: Settings) -> list[Recommendation]:
    """All lists, by partition in order."""
    return [recommendation.decode(message.value()) for message in read_topic(settings, settings.recommendations)]


def lists_of(settings: Settings, version: int) -> Callable[[], bool]:
    """Whether a model has made a list."""
    return lambda: any(made.model == version for made in lists(settings))


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
            publish_model(created, tmp_path, version=2)
            worker.wait_for(SERVES, times=2)
            wait_until(lists_of(created, 2), "lists of the second model")
            announce(created, older.model_dump_json().encode())
            assert worker.wait_for(SERVES, times=3)["model"] == 1
        wait_until(lambda: is_caught_up(created), "everything committed")
        assert worker.stop() == 0
    assert_balanced(created)
    by_partition = defaultdict(list)
    for made in lists(created):
        by_partition[made.partition].append(made.model)
    for versions in by_partition.values():
        changes = [version for before, version in zip([0, *versions], versions, strict=False) if version != before]
        assert changes == [1, 2, 1]


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
