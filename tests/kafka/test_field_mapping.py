"""A producer's own events, from its topic to lists, the audit and training."""

import json
from pathlib import Path

from jsonschema import Draft202012Validator

from ops.audit import audit
from schemas.json_schema import schemas
from schemas.settings import Settings
from tests.kafka.balance import is_caught_up, read_topic
from tests.kafka.stream import ITEMS, publish_model, send
from tests.kafka.worker_process import WorkerProcess, wait_until
from training.log.interactions import read_interactions

USERS = range(20)
LIST = Draft202012Validator(schemas()["recommendation.schema.json"])


def order(user: int, item_id: str, number: int) -> bytes:
    """As a shop has it; it numbers its customers."""
    return json.dumps({"customer": {"id": user, "vip": False}, "sku": item_id, "at": 1_700_000_000.5 + number}).encode()


def test_orders_of_a_shop_become_lists_and_are_what_training_learns_from(created: Settings, tmp_path: Path) -> None:
    settings = created.model_copy(
        update={"event_fields": "user_id=customer.id,item_id=sku,timestamp=at", "event_time_unit": "s"}
    )
    publish_model(settings, tmp_path, version=1)
    events = [(user, ITEMS[user + step], step) for step in range(5) for user in USERS]
    send(settings, settings.interactions, *((str(user), order(user, item, step)) for user, item, step in events))
    send(
        settings,
        settings.interactions,
        ("x", b'{"user_id": "x", "item_id": "i0"}'),  # in the contract's form, which is another one here
        ("not 1", order(1, "i0", 0)),
    )
    with WorkerProcess(settings, tmp_path, list_format="json") as worker:
        wait_until(lambda: is_caught_up(settings), "everything committed")
        assert worker.stop() == 0

    assert len(read_topic(settings, settings.dead_letters)) == 2
    lists = [json.loads(message.value()) for message in read_topic(settings, settings.recommendations)]
    assert all(LIST.is_valid(found) for found in lists)
    assert {(found["user_id"], found["history_length"], found["event"]["timestamp"]) for found in lists} == {
        (str(user), step + 1, 1_700_000_000_500 + 1000 * step) for user, _, step in events
    }
    found = audit(settings, window=100)
    assert (found.events, found.users, found.clean) == (len(events), len(USERS), True)

    reading = read_interactions(settings)
    assert (reading.records, reading.malformed) == (len(events) + 2, 2)
    assert sorted(reading.histories.item_ids) == sorted({item for _, item, _ in events})
    assert set(reading.histories.timestamps_ms.tolist()) == {1_700_000_000_500 + 1000 * step for step in range(5)}
