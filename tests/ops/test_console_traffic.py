"""What the console remembers, and for how long."""

from typing import Any

from ops.console.metrics import Metrics
from ops.console.traffic import ROWS_A_SECOND, Cursor, Traffic
from ops.live import LiveEvent, Received
from schemas.artefact import Manifest
from schemas.recommendation import Cause, Recommendation

FILE = {"sha256": "0" * 64, "size": 1}
FILES = dict.fromkeys(("step.onnx", "catalogue.safetensors", "items.msgpack", "probes.safetensors"), FILE)


class World:
    """A traffic and its clock."""

    def __init__(self, **options: int) -> None:
        self.now_s = 1_000.0
        self.metrics = Metrics()
        self.traffic = Traffic(self.metrics, clock=lambda: self.now_s, **options)
        self.offset = 0

    def event(self, user_id: str, item_id: str = "x") -> None:
        self.offset += 1
        self.traffic.add_event(LiveEvent(0, self.offset, user_id, item_id, int(1000 * self.now_s)))

    def list(self, user_id: str, *item_ids: str, after_ms: float = 5, model: int = 7, live: bool = True) -> None:
        items = [(item_id, 1.0) for item_id in item_ids]
        list_ = Recommendation(user_id, items, model, Cause.EVENT, 0, self.offset, 0, None, 1, 0)
        self.traffic.add_list(Received(list_, 1000 * self.now_s + after_ms), live=live)

    def update(self) -> dict[str, Any]:
        return self.traffic.update(Cursor())[0]


def test_the_numbers_are_those_of_the_last_seconds():
    world = World()
    for number in range(1, 6):
        for _ in range(10):
            world.event("anna", "a")
            world.list("anna", "a", after_ms=10 * number)
        world.now_s += 1
    numbers = world.update()["numbers"]
    assert (numbers["events_per_s"], numbers["lists_per_s"]) == (10, 10)
    assert (numbers["p50_ms"], numbers["p99_ms"]) == (30, 50)
    assert (numbers["hit_rate"], numbers["foreseeable"]) == (1, 49)
    world.now_s += 100
    numbers = world.update()["numbers"]
    assert (numbers["events_per_s"], numbers["p50_ms"], numbers["hit_rate"]) == (0, None, None)


def test_most_popular_is_counted_on_the_same_events():
    world = World()
    for user in ("bo", "cy", "dora"):
        world.event(user, "hit")
    world.now_s += 3
    world.event("anna", "first")
    world.list("anna", "something")
    world.event("anna", "hit")
    world.list("anna")
    world.now_s += 1
    numbers = world.update()["numbers"]
    assert (numbers["foreseeable"], numbers["hit_rate"], numbers["popular_hit_rate"]) == (1, 0, 1)


def test_what_is_read_back_fills_histories_and_no_numbers():
    world = World()
    world.traffic.live_from = {0: 100}
    world.event("anna", "a")
    world.list("anna", "b", live=False)
    world.now_s += 1
    update = world.update()
    assert (update["numbers"]["events_per_s"], update["numbers"]["lists_per_s"], update["rows"]) == (0, 0, [])
    assert b"recommender_live_latency_seconds_count 0.0" in world.metrics.exposition()
    found = world.traffic.user("anna") or {}
    assert ([event["item_id"] for event in found["history"]], found["list"]["items"][0]["item_id"]) == (["a"], "b")


def test_the_exposed_counters_are_of_live_answers():
    world = World()
    for item_id in ("a", "b", "c"):
        world.event("anna", item_id)
        world.list("anna", "b", after_ms=20)
    lines = world.metrics.exposition().decode().splitlines()
    assert "recommender_live_events_total 2.0" in lines
    assert "recommender_live_hits_total 1.0" in lines
    assert 'recommender_live_latency_seconds_bucket{le="0.01"} 0.0' in lines
    assert 'recommender_live_latency_seconds_bucket{le="0.025"} 3.0' in lines


def test_users_who_were_active_last_are_remembered_each_with_the_last_events():
    world = World(users=2, events=3)
    for user_id in ("anna", "bo", "anna", "cy", "anna", "anna"):
        world.event(user_id, f"i{world.offset}")
    assert world.traffic.user("bo") is None
    assert world.traffic.user("cy") is not None
    found = world.traffic.user("anna") or {}
    assert [event["item_id"] for event in found["history"]] == ["i5", "i4", "i2"]


def test_a_user_who_is_to_be_forgotten_is():
    world = World()
    world.event("anna")
    world.list("anna", "a")
    world.traffic.forget("anna", 1)
    world.list("anna", "b")
    assert (world.traffic.user("anna"), world.traffic.recommendations("anna")) == (None, None)
    assert world.update()["rows"] == []


def test_a_reader_who_comes_back_after_a_restart_is_given_what_is_new():
    world = World()
    world.event("anna", "i1")
    world.list("anna", "a")
    update, cursor = world.traffic.update(Cursor(0, 10**6))
    assert [row["item_id"] for row in update["rows"]] == ["i1"]
    assert world.traffic.update(cursor)[0]["rows"] == []


def test_what_the_last_event_moved():
    world = World()
    world.traffic.add_title("b", "Brazil")
    world.event("anna")
    world.list("anna", "a", "b", "c", "d")
    assert (world.traffic.user("anna") or {})["moved"] is None
    world.event("anna")
    world.list("anna", "c", "a", "e", "d")
    assert (world.traffic.user("anna") or {})["moved"] == {
        "entered": ["e"],
        "left": [{"item_id": "b", "title": "Brazil", "was": 2}],
        "up": {"c": 2},
        "down": {"a": 1},
    }


def test_fast_traffic_is_shown_as_a_sample_spread_over_time():
    world = World()
    world.now_s += 10
    for _ in range(1_000):
        world.event("anna")
        world.list("anna", "a")
        world.now_s += 0.01
    rows, seconds = world.update()["rows"], 10
    shown = [row["number"] for row in rows]
    assert len(rows) == 30  # of more, the last
    assert shown[-1] <= ROWS_A_SECOND * (seconds + 1)
    assert rows[-1]["sent_ms"] - rows[0]["sent_ms"] > 2_000


def test_an_event_without_a_list_is_shown_after_a_while():
    world = World()
    world.now_s += 1
    world.event("anna", "a")
    assert world.update()["rows"] == []
    world.now_s += 4
    (row,) = world.update()["rows"]
    assert (row["item_id"], row["list"]) == ("a", None)


def test_nothing_piles_up_while_nobody_reads():
    world = World()
    for number in range(1_000):
        world.now_s += 1
        world.event("anna", str(number))
    assert len(world.traffic._unanswered) < 5
    assert len(world.update()["rows"]) == 30


def test_a_reader_is_given_every_row_and_every_second_once():
    world = World()
    cursor, rows, seconds = Cursor(), [], []
    for number in range(20):
        world.now_s += 0.5
        world.event("anna", str(number))
        world.list("anna", "a")
        update, cursor = world.traffic.update(cursor)
        rows += [row["item_id"] for row in update["rows"]]
        seconds += [sample["at"] for sample in update["samples"]]
    assert rows == [str(number) for number in range(20)]
    assert seconds == list(range(1_000, 1_010))


def test_a_swap_is_the_first_list_of_a_model_that_is_announced_live():
    world = World()
    for version, live in ((7, False), (8, True)):
        manifest = Manifest(version=version, path=str(version), files=FILES, items=1, width=1, state=1)
        world.traffic.add_model(manifest, 1_000_500, live=live)
    for model, after_ms in ((7, 600), (8, 700), (8, 800)):
        world.event("anna")
        world.list("anna", "a", model=model, after_ms=after_ms)
    new, old = world.update()["models"]
    assert (new["version"], new["in_service_ms"], new["serving"], new["lists"]) == (8, 1_000_700, True, 2)
    assert (old["version"], old["in_service_ms"], old["serving"], old["lists"]) == (7, None, False, 1)


def test_an_outage_has_a_beginning_and_no_lag():
    world = World()
    world.traffic.reachable(5)
    world.now_s += 1
    world.traffic.away("no broker")
    world.now_s += 1
    world.traffic.away("no broker")
    update = world.update()
    assert update["broker"] == {"state": "away", "said": "no broker", "since_ms": 1_001_000}
    assert update["numbers"]["lag"] is None
    world.traffic.reachable(3)
    assert (world.traffic.broker, world.update()["numbers"]["lag"]) == ("reachable", 3)
