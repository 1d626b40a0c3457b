"""The known log."""

from collections import Counter

from ops.chaos.log import KnownLog
from schemas import event
from schemas.malformed import Malformed

NOW_MS = 1_700_000_000_000
ITEMS = [f"item-{number}" for number in range(100)]


def test_the_same_seed_gives_the_same_records():
    logs = [KnownLog(seed, 50, ITEMS) for seed in (1, 1, 2)]
    first, same, other = [[log.next(NOW_MS) for _ in range(500)] for log in logs]
    assert first == same != other


def test_a_log_has_all_that_producers_send():
    log = KnownLog(1, 50, ITEMS)
    users, found, event_ids = Counter[str](), Counter[str](), set[str]()
    for _ in range(20_000):
        user_id, value = log.next(NOW_MS)
        users[user_id] += 1
        if value is None:
            found["forgotten"] += 1
            continue
        try:
            decoded = event.decode(value, user_id.encode(), 0)
        except Malformed:
            found["unreadable"] += 1
            continue
        found["late"] += decoded.timestamp_ms < NOW_MS
        found["unknown"] += decoded.item_id not in ITEMS
        found["json"] += value.startswith(b"{")
        if decoded.event_id is not None:
            found["repeated"] += decoded.event_id in event_ids
            event_ids.add(decoded.event_id)
    assert min(found.values()) > 5
    assert found.keys() == {"forgotten", "unreadable", "late", "unknown", "json", "repeated"}
    assert users["user-0"] > 10 * users["user-49"] > 0, "Zipf"
