"""Good and bad records of all kinds through a real broker and a real worker: each is processed or put aside, once.

With MESSAGES=1000000 the long form: its figures are in docs/reliability.md.
"""

import json
import os
import re
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from confluent_kafka import Producer

from ops.audit import User, compare, read_lists, read_states
from ops.dead_letters import Letter, read
from ops.kafka import free_port
from schemas import event
from schemas.artefact import CHAMPION
from schemas.event import Event
from schemas.item import item_hash
from schemas.kafka import end_offsets, producer_config
from schemas.settings import REFUSED, Settings
from schemas.state import kept_length
from tests.kafka.balance import is_caught_up
from tests.kafka.stream import ITEMS, publish_model, send
from tests.kafka.worker_process import WorkerProcess, wait_until
from tests.schemas.fuzzer import Fuzzed, Fuzzer

MESSAGES = int(os.environ.get("MESSAGES", "20000"))
SEED = int(os.environ.get("SEED", "1"))
DEADLINE_S = 200 + MESSAGES / 500
WINDOW = 100
RECENT = 32
_CUT, _CUT_KEY, _COMPARED = 512 * 1024, 1024, 4096


class Placed(NamedTuple):
    """A record at its offset."""

    offset: int
    record: Fuzzed


@dataclass
class Expected:
    """What a worker must have made of the valid records, by the contract."""

    users: dict[bytes, User] = field(default_factory=dict)
    applied: int = 0
    late: int = 0
    repeated: int = 0
    valid: int = 0
    _last_ms: dict[bytes, int] = field(default_factory=dict)
    _recent: dict[bytes, deque[str]] = field(default_factory=dict)

    def take(self, offset: int, record: Fuzzed) -> None:
        """The next valid record."""
        assert record.says is not None
        assert record.key is not None
        self.valid += 1
        key, (item_id, timestamp_ms, event_id) = record.key, record.says
        if item_id is None:
            self.users[key] = User(record.partition, offset)
            self._recent.pop(key, None)
            self._last_ms.pop(key, None)
            return
        recent = self._recent.setdefault(key, deque(maxlen=RECENT))
        if event_id is not None:
            if event_id in recent:
                self.repeated += 1
                return
            recent.append(event_id)
        self.applied += 1
        self.late += timestamp_ms < self._last_ms.get(key, 0)
        self._last_ms[key] = timestamp_ms
        user = self.users.setdefault(key, User(record.partition))
        user.last_offset = offset
        user.items.append(item_hash(item_id))
        user.offsets.append(offset)


def placed(settings: Settings, start_ms: int) -> Iterator[Placed]:
    """The records, with the offsets that they get: only one producer writes."""
    offsets = Counter[int]()
    for record in Fuzzer(SEED, settings.partitions, start_ms).records(MESSAGES):
        yield Placed(offsets[record.partition], record)
        offsets[record.partition] += 1


def produce(settings: Settings, start_ms: int) -> None:
    failed: list[object] = []
    producer = Producer(producer_config(settings) | {"linger.ms": 20, "delivery.report.only.error": True})
    for _, record in placed(settings, start_ms):
        while True:
            try:
                producer.produce(
                    settings.interactions,
                    key=record.key,
                    value=record.value,
                    partition=record.partition,
                    timestamp=record.record_ms,
                    on_delivery=lambda error, _: failed.append(error),
                )
            except BufferError:
                producer.poll(0.1)
            else:
                break
        producer.poll(0)
    assert producer.flush(300) == 0
    assert not failed, failed[:5]


def foul(settings: Settings) -> None:
    """Put what nobody can read on the topics of models and of items."""
    bad = [record for record in Fuzzer(SEED, 1, 0, share=0.2).records(300) if len(record.value or b"") < 1000]
    send(settings, settings.models, *((CHAMPION, record.value) for record in bad))
    send(settings, settings.models, ("challenger", b"\xff"), (CHAMPION, b"{"), (CHAMPION, b"[" * 50_000))
    keys = Random(SEED)
    send(settings, settings.items, *((keys.choice(("", "x" * 300, "i1")), record.value) for record in bad))
    send(settings, settings.items, ("i1", None), ("i2", b"\x81\xa9available\xc2"))


def letter_is_right(letter: Letter, sent: Placed, settings: Settings) -> bool:
    """Whether a dead letter is what must have become of a record."""
    key, value = sent.record.key, sent.record.value
    return (
        letter.field in sent.record.blame
        and letter.topic == settings.interactions
        and letter.place[0] == letter.partition
        and (letter.key or b"") == (key or b"")[:_CUT_KEY]
        and letter.value == (value if value is None else value[:_COMPARED])
        and (letter.key_size, letter.size) == (len(key or b""), len(value or b""))
        and letter.stored == min(letter.size, _CUT)
    )


def metrics(port: int) -> dict[str, float]:
    """What the worker has counted, by series."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


@pytest.mark.timeout(600 + MESSAGES / 200)
def test_each_of_very_many_records_is_applied_once_or_put_aside_once_with_the_field_to_blame(
    created: Settings, tmp_path: Path
) -> None:
    publish_model(created, tmp_path, version=1)
    foul(created)
    start_ms = int(time.time() * 1000)
    port = free_port()
    began = time.monotonic()
    with WorkerProcess(created, tmp_path, web_port=port) as worker:
        produce(created, start_ms)
        foul(created)
        wait_until(lambda: is_caught_up(created), "all is done", DEADLINE_S)
        seconds = time.monotonic() - began
        counted = metrics(port)
        assert worker.stop() == 0
        assert len(worker.logged("started")) == 1

    expected, kinds, fields = Expected(), Counter[str](), Counter[str]()
    dead = read(created, _COMPARED)
    assert (dead.foreign, dead.retried) == (0, frozenset())
    assert sum(end_offsets(created, created.dead_letters).values()) == len(dead.letters), "some are there twice"
    letters = {(letter.partition, letter.offset): letter for letter in dead.letters}
    for sent in placed(created, start_ms):
        kinds[sent.record.kind] += 1
        if sent.record.says:
            expected.take(*sent)
            continue
        letter = letters.pop((sent.record.partition, sent.offset), None)
        assert letter is not None, f"not among the dead letters: {sent}"
        assert letter_is_right(letter, sent, created), f"{letter}: of {sent}"
        fields[letter.field] += 1
    assert not letters, f"valid, but among the dead letters: {next(iter(letters.values()))}"

    states = read_states(created)
    found = compare(expected.users, states, read_lists(created), WINDOW)
    assert found.clean, found
    assert states.keys() == expected.users.keys()
    assert counted["recommender_events_total"] == expected.applied
    assert (counted["recommender_repeated_events_total"], counted["recommender_late_events_total"]) == (
        expected.repeated,
        expected.late,
    )
    assert fields == {
        name.split('"')[1]: count for name, count in counted.items() if count and "dead_letters_total" in name
    }
    assert counted["recommender_model_version"] == 1
    assert counted["recommender_refused_models_total"] > 100
    assert len(worker.logged("item record refused")) > 100
    figures = {
        "messages": MESSAGES,
        "seed": SEED,
        "valid": expected.valid,
        "invalid": sum(fields.values()),
        "repeated": expected.repeated,
        "late": expected.late,
        "by_field": dict(fields.most_common()),
        "by_kind": dict(kinds.most_common()),
        "seconds": round(seconds, 1),
        "messages_per_s": round(MESSAGES / seconds),
    }
    print(json.dumps(figures))

    send(created, created.changelog, ("u1", b"garbage"))
    with WorkerProcess(created, tmp_path) as again:
        assert again.wait(180) == REFUSED
        assert re.search(rf"{created.changelog}\[\d\] has no state record at offset \d+ but 7 bytes", again.output)


@pytest.mark.timeout(600 + MESSAGES / 200)
def test_one_user_with_very_many_events_has_the_right_history_and_holds_up_nobody_for_good(
    created: Settings, tmp_path: Path
) -> None:
    publish_model(created, tmp_path, version=1)
    busy = [ITEMS[number * 7 % len(ITEMS)] for number in range(MESSAGES)]
    with WorkerProcess(created, tmp_path) as worker:
        worker.wait_for("owns partitions")
        began = time.monotonic()
        events = (("busy", event.encode(Event("busy", item_id, number))) for number, item_id in enumerate(busy))
        while chunk := list(islice(events, 50_000)):
            send(created, created.interactions, *chunk)
        send(created, created.interactions, ("other", event.encode(Event("other", "i1", 1))))
        wait_until(lambda: is_caught_up(created), "all is done", DEADLINE_S)
        print(json.dumps({"events_of_one_user": MESSAGES, "per_s": round(MESSAGES / (time.monotonic() - began))}))
        assert worker.stop() == 0
    record = read_states(created)[b"busy"]
    assert record.events == MESSAGES
    assert record.item_hashes().tolist() == [item_hash(i) for i in busy[-kept_length(MESSAGES, WINDOW) :]]
    lists = read_lists(created)
    assert lists[b"busy"].offset == record.last_offset
    assert lists.keys() == {b"busy", b"other"}
