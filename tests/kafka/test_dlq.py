"""`python -m ops dlq`: from the topic of dead letters back into the log, once."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException

from ops.audit import read_states
from ops.dead_letters import read
from ops.dlq import Dlq, Form, Mended, _producer, mend, send
from schemas import event
from schemas.event import Event
from schemas.placement import partition_of
from schemas.settings import DONE, REFUSED, Settings, run_command
from stream_app.broker import DeadLetter, Outgoing, Record
from stream_app.kafka_broker import KafkaBroker
from tests.kafka.balance import read_topic
from tests.kafka.stream import publish_model
from tests.kafka.stream import send as produce
from tests.kafka.worker_process import WorkerProcess, wait_until

SHOP = "--event-fields=user_id=customer.id,item_id=sku,timestamp=at"


def order(user: str, item: str) -> bytes:
    return json.dumps({"customer": {"id": user}, "sku": item, "at": 1_700_000_000_000}).encode()


class Operator:
    """Runs the command, and reads what it says."""

    def __init__(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        given = settings.model_dump(include={"broker", "app", "partitions", "interactions", "dead_letters"})
        self._names = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        self._capsys = capsys

    def says(self, *arguments: str) -> dict[str, Any]:
        assert run_command("ops dlq", Dlq, [*arguments, *self._names, "--json"]) == DONE
        said: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return said

    def prints(self, *arguments: str) -> str:
        assert run_command("ops dlq", Dlq, [*arguments, *self._names]) == DONE
        return self._capsys.readouterr().out

    def is_refused(self, *arguments: str) -> str:
        assert run_command("ops dlq", Dlq, [*arguments, *self._names]) == REFUSED
        return self._capsys.readouterr().err


def events_of(settings: Settings) -> dict[bytes, int]:
    return {key: record.events for key, record in read_states(settings).items()}


def test_what_can_be_read_after_a_setting_is_corrected_is_applied_exactly_once(
    created: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_model(created, tmp_path, version=1)
    operator = Operator(created, capsys)
    assert operator.prints() == "no dead letters\n"
    plain = event.encode(Event("dora", "i4", 1_700_000_000_000))
    bad = [
        ("anna", order("anna", "i1")),
        ("bert", order("bert", "i2")),
        ("not bert", order("bert", "i3")),
        ("carl", b"\xc1 no event"),
        ("carl", b"{" + b" " * 600_000),
        ("dora", plain),
    ]
    produce(created, created.interactions, *bad)
    with WorkerProcess(created, tmp_path) as worker:
        wait_until(lambda: events_of(created) == {b"dora": 1}, "the valid event is applied")
        wait_until(lambda: operator.says()["total"] == 5, "all others are dead letters")
        assert worker.stop() == 0

    listed = operator.says()
    assert (listed["retried"], listed["foreign"], sum(listed["reasons"].values())) == (0, 0, 5)
    assert {(one["field"], one["cut"]) for one in listed["letters"]} == {
        ("user_id", False),
        ("value", False),
        ("value", True),
    }
    assert (
        operator.says("--reason", "600001")["total"] == operator.says("--limit", "1", "--reason=600001")["total"] == 1
    )
    assert operator.prints("--reason=event_type") == "none of 5 dead letters\n"
    of_key = {one["key"]: one["origin"] for one in listed["letters"]}
    table = operator.prints("list", "--since", "1h")
    assert all(origin in table for origin in of_key.values())
    explained = operator.prints("explain", of_key["anna"], SHOP)
    for part in (
        "user_id: must be a string, got None",
        "set event_fields",
        "7b 22 63 75",
        "can be sent again: Event(",
    ):
        assert part in explained
    assert "was cut when it was dead-lettered" in operator.prints(
        "explain", next(o["origin"] for o in listed["letters"] if o["cut"])
    )
    assert "has none from there" in operator.is_refused("explain", "0:999999")

    tried = operator.says("retry", SHOP, "--dry-run")
    assert (tried["sent"], sorted(tried["valid"])) == (0, sorted([of_key["anna"], of_key["bert"]]))
    assert len(operator.says("retry")["left"]) == 5
    corrected = created.model_copy(update={"event_fields": SHOP.partition("=")[2]})
    with WorkerProcess(corrected, tmp_path) as worker:
        assert operator.says("retry", SHOP, "--only", of_key["anna"])["sent"] == 1
        assert operator.says("retry", SHOP)["sent"] == 1
        last = operator.says("retry", SHOP, "--rekey")
        assert (last["valid"], last["left"][of_key["anna"]]) == ([of_key["not bert"]], "sent again already")
        assert any("was cut" in why for why in last["left"].values())
        assert operator.says("retry", SHOP, "--rekey")["sent"] == 0
        wanted = {b"dora": 1, b"anna": 1, b"bert": 2}
        wait_until(lambda: events_of(created) == wanted, "the letters are applied")
        assert worker.stop() == 0
    assert operator.says()["retried"] == 3
    assert events_of(created) == wanted
    keys = {message.key(): message.partition() for message in read_topic(created, created.recommendations)}
    assert keys.keys() == wanted.keys()


def test_of_two_retries_at_once_one_sends_and_of_one_that_breaks_off_nothing_is_left(
    created: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    value = event.encode(Event("anna", "i1", 1))
    records = [Record(offset, b"anna", value, 1) for offset in (1, 2)]
    letters = [DeadLetter(record, "value", "value: was odd, got 1") for record in records]
    KafkaBroker(created).send({0: Outgoing(dead_letters=letters)})
    KafkaBroker(created).send({0: Outgoing(dead_letters=letters[:1])})  # by a worker that read the record again
    found = read(created, 1 << 16)
    assert len(found.letters) == 2
    form = Form.of("", "ms")
    mended = [mend(letter, form, form) for letter in found.letters]

    slow = _producer(created)
    broken = [*mended, Mended(mended[0].letter._replace(place=(10_000, 0)), b"anna", value)]
    with pytest.raises(KafkaException):
        send(created, slow, broken)
    assert read_topic(created, created.interactions) == []
    assert read(created, 0).retried == frozenset()

    slow = _producer(created)
    assert Operator(created, capsys).says("retry")["sent"] == 2
    with pytest.raises(KafkaException, match=r"(?i)fenced"):
        send(created, slow, mended)
    assert len(read_topic(created, created.interactions)) == 2
    assert read(created, 0).retried == {letter.identity for letter in found.letters}


def test_what_a_user_did_before_being_forgotten_is_not_sent_again(
    created: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    now_ms = int(time.time() * 1000)
    right = {user: partition_of(user.encode(), created.partitions) for user in ("anna", "bert", "carl", "dora")}
    produce(created, created.interactions, ("anna", b"\xc1"), ("bert", b"\xc1"), ("bert", None), ("carl", None))
    broker, wrong = KafkaBroker(created), {user: (partition + 1) % 4 for user, partition in right.items()}

    def put_aside(user: str, partition: int, offset: int, at_ms: int) -> None:
        record = Record(offset, user.encode(), event.encode(Event(user, "i1", 1)), at_ms)
        letter = DeadLetter(record, "partition", "partition: was wrong, got 1")
        broker.send({partition: Outgoing(dead_letters=[letter])})

    put_aside("anna", right["anna"], 0, now_ms)
    put_aside("bert", right["bert"], 0, now_ms + 60_000)  # by a clock that is fast: the order of the log counts
    put_aside("carl", wrong["carl"], 900, now_ms - 60_000)
    put_aside("dora", wrong["dora"], 901, now_ms)
    put_aside("carl", wrong["carl"], 902, now_ms + 60_000)

    said = Operator(created, capsys).says("retry")
    assert sorted(said["valid"]) == sorted([f"{right['anna']}:0", f"{wrong['dora']}:901", f"{wrong['carl']}:902"]), said
    assert {why.partition(",")[0] for why in said["left"].values()} == {"the user was forgotten since"}
    assert said["left"].keys() == {f"{right['bert']}:0", f"{wrong['carl']}:900"}
