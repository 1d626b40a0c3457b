"""Every process over TLS, as a user of its own with just the rights of its list; and what happens without them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from confluent_kafka import KafkaError, Producer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

from ops.__main__ import COMMANDS
from ops.kafka import free_port
from ops.topics import admin, create
from schemas.access import PROCESSES, access
from schemas.admission import admit
from schemas.artefact_store import ArtefactStore
from schemas.kafka import end_offsets, read_topic
from schemas.settings import DONE, REFUSED, Refused, Settings, run
from schemas.topics import topics
from stream_app.broker import Outgoing
from stream_app.kafka_broker import KafkaBroker
from tests.kafka.secured import SECRET, Secured
from tests.kafka.stream import Stream, send
from tests.kafka.worker_process import WorkerProcess, wait_until
from training.release.champion import publish
from training.release.history import History

USERS, EVENTS = 12, 15
TOKEN = f"{SECRET}-of-readers"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with Secured(tmp_path_factory.mktemp("secured")) as cluster:
        yield cluster


class Told:
    """Runs programs, and keeps everything that they say."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.everything: list[str] = []
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def command(self, settings: Settings, *arguments: str) -> tuple[int, str]:
        """A command in this process: its status and what it printed."""
        status, out, err = self._run(settings, *arguments)
        return status, out + err

    def _run(self, settings: Settings, *arguments: str) -> tuple[int, str, str]:
        with self._monkeypatch.context() as patch:
            for name, value in (settings.environment() | {"RECOMMENDER_LOG_LEVEL": "debug"}).items():
                patch.setenv(name, value)
            status = run("ops", COMMANDS | {"history": History}, arguments)
        captured = self._capsys.readouterr()
        self.everything += captured
        return status, captured.out, captured.err

    def result(self, settings: Settings, *arguments: str) -> dict[str, Any]:
        """What a command that succeeds says as JSON."""
        status, out, err = self._run(settings, *arguments, "--json")
        assert status == DONE, out + err
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result

    def program(self, settings: Settings, *arguments: str) -> tuple[int, str]:
        """A program with a process of its own: its status and what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments, "--log-level", "debug"],
            env=os.environ | settings.environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.everything += done.stdout, done.stderr
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(capsys, monkeypatch)


def lists(reader: Settings) -> int:
    return sum(end_offsets(reader, reader.recommendations).values())


def states(reader: Settings) -> int:
    return sum(end_offsets(reader, reader.changelog).values())


def get(url: str, token: str | None = None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urlopen(Request(url, headers=headers), timeout=30) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.timeout(400)
def test_with_just_its_rights_every_process_works_and_no_secret_is_told(
    cluster: Secured, told: Told, tmp_path: Path
) -> None:
    of = {process: cluster.settings(process) for process in PROCESSES}
    reader = of["reader"]
    assert len(told.result(of["topics"], "topics")["created"]) == 6
    assert told.result(of["topics"], "topics")["created"] == []
    rows = [f"u{user}\ti{(user + time) % 7}\t{time}\n" for user in range(USERS) for time in range(EVENTS)]
    (tmp_path / "ring.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))
    (tmp_path / "ring.item").write_text("item_id:token\ttitle:token_seq\ni1\tOne\n")
    imported = told.result(of["producer"], "import", str(tmp_path / "ring.inter"))
    assert (imported["events"], imported["titles"]) == (USERS * EVENTS, 1)
    send(of["producer"], of["producer"].interactions, ("u1", b'{"user":"u1","item":"i1"}'))

    options = ["training", "run", "--epochs", "1", "--allow-odd-data", "--checkpoints", str(tmp_path), "--threads", "1"]
    status, said = told.program(of["training"], *options)
    assert status == DONE, said
    [manifest] = ArtefactStore(reader.artefact_store).manifests()
    publish(of["promote"], manifest)
    assert told.result(of["promote"], "history")["champion"] == manifest.version

    own = {"artefact_store": reader.artefact_store, "log_level": "debug", "web_port": free_port()}
    with WorkerProcess(of["worker"], tmp_path, **own) as worker:
        worker.wait_for("model in service")
        wait_until(lambda: lists(reader) >= USERS * EVENTS, "every event has its list")
        told.everything += get(f"http://127.0.0.1:{own['web_port']}/metrics")[1]

        environment = os.environ | of["console"].environment() | {"RECOMMENDER_CONSOLE_TOKEN": TOKEN}
        with subprocess.Popen(
            [sys.executable, "-m", "ops", "console", "--port", "0", "--log-level", "debug"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as console:
            assert console.stdout is not None
            found = re.search("http://[^;]+", line := console.stdout.readline())
            assert found, line
            wait_until(lambda: get(f"{found[0]}users/u1", TOKEN)[0] == 200, "the console knows a user")
            assert get(f"{found[0]}users/u1", "wrong-token-of-sixteen")[0] == 401
            pages = [get(f"{found[0]}{page}", TOKEN)[1] for page in ("", "users/u1", "metrics", "health")]
            console.terminate()
            told.everything += [*pages, line + console.stdout.read()]

        with Stream(of["producer"], events_per_s=50):
            status, said = told.command(reader, "watch", "--lists", "3")
        assert (status, said.count("\n")) == (DONE, 3)

        assert told.result(of["dlq"], "dlq")["total"] == 1
        assert told.result(of["dlq"], "dlq", "retry", "--map", "user_id=user,item_id=item")["sent"] == 1
        forget = ["forget", "u3", "--receipt", str(tmp_path / "receipt")]
        assert told.result(of["forget"], *forget, "--yes")["done"]
        told.command(of["forget"], *forget, "--verify")
        assert worker.stop() == 0
    told.everything.append(worker.output)

    # the broker waits for a worker that has left for as long as its session
    wait_until(lambda: told.command(of["reset"], "reset", "--yes")[0] == DONE, "the app is reset")
    before = lists(reader)
    with WorkerProcess(cluster.mutual("worker"), tmp_path, **own | {"worker_id": "m"}) as worker:
        wait_until(lambda: lists(reader) >= before + USERS * EVENTS, "every event has its list again")
        assert worker.stop() == 0
    told.everything.append(worker.output)

    announced = [m.value() or b"" for _, batch in read_topic(of["promote"], "models", {0: 2}) for m in batch]
    told.everything += [value.decode() for value in announced]
    assert len(announced) == 2
    everything = "\n".join(told.everything)
    assert len(everything) > 10_000
    assert SECRET not in everything


@pytest.mark.timeout(400)
def test_with_just_its_rights_a_rebuild_makes_the_states_again_from_stores_changelog_and_log(
    cluster: Secured, told: Told, tmp_path: Path
) -> None:
    of = {process: cluster.settings(process) for process in ("topics", "producer", "worker", "rebuild", "forget")}
    told.result(of["topics"], "topics")
    own = {"artefact_store": of["worker"].artefact_store, "worker_id": "r"}
    with Stream(of["producer"], events_per_s=200), WorkerProcess(of["worker"], tmp_path, **own) as worker:
        worker.wait_for("owns partitions")
        least = states(of["forget"]) + USERS
        wait_until(lambda: states(of["forget"]) > least, "there are more states")
        assert worker.stop() == 0
    options = ["--data-dir", str(tmp_path / "data"), "--worker-id", "r"]
    command = ["rebuild", "--from", "store", *options]
    # the broker waits for a worker that has left for as long as its session
    wait_until(lambda: told.command(of["rebuild"], *command)[0] == DONE, "the changelog is made from the stores")
    before = states(of["forget"])
    assert told.result(of["rebuild"], "rebuild", "--from", "changelog", *options)["records"] == before
    assert told.result(of["rebuild"], "rebuild", "--from", "log", *options)["users"] == before - of["worker"].partitions
    assert SECRET not in "".join(told.everything)


@pytest.mark.timeout(600)
def test_chaos_runs_with_rights_to_topics_and_groups_of_its_own_alone(
    cluster: Secured, told: Told, tmp_path: Path
) -> None:
    settings = cluster.user("breaker", ())
    rights = {ResourceType.TOPIC: "CREATE DELETE DESCRIBE_CONFIGS READ WRITE", ResourceType.GROUP: "READ"}
    acls = [
        ACL("User:breaker", "*", ACLOperation[operation], ACLPermissionType.ALLOW, pattern)
        for kind, operations in rights.items()
        for pattern in [ResourcePattern(kind, "chaos-", ACLResourcePatternType.PREFIXED)]
        for operation in operations.split()
    ]
    with admin(cluster.broker.bootstrap) as client:
        assert not client.create_acls(acls)["failed"]
    options = ["--count", "1", "--faults", "kill", "--workers", "1", "--rate", "100", "--directory", str(tmp_path)]
    status, said = told.program(settings, "ops", "chaos", *options, "--json")
    assert status == DONE, said
    found = json.loads(said.splitlines()[-1])
    assert (found["faults"], found["lost"], found["applied_twice"], found["uncovered"]) == (1, 0, 0, 0)
    assert found["events"] > 10
    assert SECRET not in "".join([*told.everything, *(log.read_text() for log in tmp_path.glob("*.log"))])


def test_who_has_no_rights_is_told_all_that_is_missing(cluster: Secured) -> None:
    nobody = cluster.user("nobody", ())
    for process in PROCESSES:
        with pytest.raises(Refused) as raised:
            admit(nobody, process)
        for resource, name, operations in access(nobody, process):
            if resource != "transactional-id":  # nobody but its coordinator knows
                assert f"{' and '.join(sorted(operations))} {resource} {name}" in str(raised.value)
        assert f"ops acls --process {process}" in str(raised.value)


def test_a_worker_without_one_right_ends_with_a_line_that_names_it(cluster: Secured, told: Told) -> None:
    mine = cluster.settings("worker")
    less = [one for one in access(mine, "worker") if one.name != mine.changelog]
    settings = cluster.user("worker-without-changelog", tuple(less))
    status, said = told.program(settings, "stream_app")
    assert status == REFUSED, said
    named = "worker-without-changelog has no right to READ and WRITE topic shop-users-changelog: "
    assert [line for line in said.splitlines() if named in line] == said.splitlines()[-1:]


def test_letters_are_not_sent_again_without_the_right_to_a_transaction(cluster: Secured, told: Told) -> None:
    told.result(cluster.settings("topics"), "topics")
    less = [one for one in access(cluster.settings("dlq"), "dlq") if one.resource != "transactional-id"]
    status, said = told.command(cluster.user("dlq-without-transactions", tuple(less)), "dlq", "retry")
    assert (status, said) == (REFUSED, "ops dlq: there is no right to WRITE transactional-id shop-dlq\n")


@pytest.mark.parametrize(
    ("program", "wrong"),
    [
        ("stream_app", "sasl_password"),
        ("training run", "ssl_ca_file"),
        ("topics", "sasl_password"),
        ("topics", "ssl_ca_file"),
        ("dlq", "sasl_password"),
        ("console", "sasl_password"),
        ("history", "sasl_password"),
    ],
)
def test_who_is_not_let_in_says_so_in_one_line_that_names_the_setting_and_ends(
    cluster: Secured, told: Told, program: str, wrong: str
) -> None:
    changes = {"sasl_password": f"not-{SECRET}", "ssl_ca_file": ""}
    settings = cluster.settings("reader", **{wrong: changes[wrong]})
    if program in ("stream_app", "training run"):
        status, said = told.program(settings, *program.split())
    else:
        status, said = told.command(settings, program, *(["--port", "0"] if program == "console" else []))
    assert status == REFUSED, said
    assert wrong in said.splitlines()[-1]
    assert "Traceback" not in said
    assert SECRET not in "".join(told.everything)


def test_a_certificate_is_asked_for_and_of_the_right_host(cluster: Secured) -> None:
    mine = cluster.mutual("worker")
    with pytest.raises(Refused, match=r"ssl_certificate_file \(empty\) is wrong"):
        admit(mine.model_copy(update={"ssl_certificate_file": "", "ssl_key_file": ""}), "worker")
    elsewhere = mine.broker.replace("127.0.0.1", "localhost")
    with pytest.raises(Refused, match=f"the host in broker {elsewhere} is wrong"):
        admit(mine.model_copy(update={"broker": elsewhere}), "worker")


def test_a_right_that_is_taken_from_a_worker_is_named(cluster: Secured) -> None:
    maker = cluster.settings("topics")
    with admin(maker) as client:
        create(client, topics(maker))
    broker = KafkaBroker(cluster.settings("dlq"))
    with pytest.raises(Refused, match="there is no right to WRITE topic recommendations"):
        broker.send({0: Outgoing(lists=[(b"u1", b"a list")])})


def test_a_record_that_unpacks_to_much_more_is_refused_by_a_topic_that_is_kept_unpacked(cluster: Secured) -> None:
    topic = {"num_partitions": 1, "replication_factor": 1, "configs": {"compression.type": "uncompressed"}}
    address, failed = cluster.broker.bootstrap, list[Any]()
    with admin(address) as client:
        client.create_topics({"unpacked": topic}, wait_for_metadata=True)
    packing = {"bootstrap.servers": address, "compression.type": "zstd", "message.max.bytes": 100_000_000}
    producer = Producer(packing)
    producer.produce("unpacked", b"x" * 20_000_000, on_delivery=lambda error, _: failed.append(error))
    assert producer.flush(60) == 0
    assert [error.code() for error in failed] == [KafkaError.MSG_SIZE_TOO_LARGE]


def test_the_command_grants_what_it_prints(cluster: Secured, told: Told) -> None:
    settings = cluster.user("granted", ())
    plain = Settings(_env_file=None, broker=cluster.broker.bootstrap, app=settings.app)
    command = ["acls", "--process", "console", "--principal", "User:granted"]
    printed = told.command(plain, *command)[1]
    assert f"--allow-principal User:granted --operation READ --topic {plain.models}\n" in printed
    with pytest.raises(Refused):
        admit(settings, "console")
    assert told.result(plain, *command, "--grant")["granted"]
    wait_until(lambda: admit(settings, "console"), "it may", 10)
    status, said = told.command(settings, *command, "--grant")
    assert status == REFUSED
    assert said.startswith("ops acls: not everything was granted to User:granted: there is no right to ALTER the clus")
