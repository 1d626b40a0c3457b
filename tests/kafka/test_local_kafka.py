"""A broker of one's own: its data, its port, and that it never stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError

from ops.kafka import BrokerFailed, LocalKafka, free_port
from ops.topics import admin
from schemas.settings import Refused

START = """
from pathlib import Path
from ops.kafka import LocalKafka
broker = LocalKafka(Path({data_dir!r}))
broker.start()
print(broker.pid, flush=True)
input()
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalKafka]:
    """One that may be stopped."""
    with LocalKafka() as broker:
        yield broker


@pytest.mark.parametrize("end", [LocalKafka.stop, LocalKafka.kill], ids=["stop", "kill"])
def test_records_and_address_survive_a_restart(broker: LocalKafka, end: Callable[[LocalKafka], None]):
    topic, address = end.__name__, broker.bootstrap
    with admin(address) as client:
        client.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    produce(broker, topic, b"before")
    end(broker)
    assert broker.pid is None
    broker.start()
    assert broker.bootstrap == address
    produce(broker, topic, b"after")
    assert read(broker, topic, 2) == [b"before", b"after"]


def test_a_port_that_is_taken_is_refused(kafka: LocalKafka, tmp_path: Path):
    with pytest.raises(Refused, match=f"port {kafka.port} cannot be used: address already in use"):
        LocalKafka(tmp_path, kafka.port).start()


def test_a_broker_that_cannot_be_set_up_says_why(tmp_path: Path):
    with pytest.raises(BrokerFailed, match=r"(?s)could not be formatted.*num\.io\.threads"):
        LocalKafka(tmp_path, settings={"num.io.threads": "none"}).start()


def test_a_second_broker_on_the_same_data_is_refused(broker: LocalKafka):
    with pytest.raises(Refused, match=f"another broker runs on the data in {broker.data_dir}"):
        LocalKafka(broker.data_dir).start()


def test_a_broker_that_dies_while_it_starts_shows_the_errors_of_its_log(broker: LocalKafka):
    broker.stop()
    other = {"node.id": "7", "controller.quorum.voters": "7@127.0.0.1:9093"}
    with pytest.raises(BrokerFailed, match=r"(?s)ended with status 1\n.*Stored node id 1 .* 7") as raised:
        LocalKafka(broker.data_dir, settings=other).start()
    assert "INFO" not in str(raised.value)
    broker.start()


def test_no_topic_is_made_by_asking_for_it(kafka: LocalKafka):
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, max_block_ms=500)
    with pytest.raises(KafkaTimeoutError):
        producer.send("asked-for", b"x").get(5)
    producer.close()
    with admin(kafka.bootstrap) as client:
        assert "asked-for" not in client.list_topics()


def test_it_needs_no_program_on_the_path_and_dies_with_the_process_that_started_it(tmp_path: Path):
    program = START.format(data_dir=str(tmp_path / "data"))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": "", "JAVA_HOME": "", "PYTHONPATH": str(Path.cwd())},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    wait_until(lambda: not alive(pid), f"broker {pid} outlived its parent")


def test_on_the_command_line_it_says_where_it_is_and_ends_in_order_on_ctrl_c(tmp_path: Path):
    port = free_port()
    command = [sys.executable, "-m", "ops", "kafka", "--port", str(port), "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert f"127.0.0.1:{port}" in program.stdout.readline()
        program.send_signal(signal.SIGINT)
        assert program.wait(30) == 0
    log = (tmp_path / "kafka" / "broker.log").read_text()
    assert "shut down completed" in log


def produce(broker: LocalKafka, topic: str, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    producer.send(topic, value).get(30)
    producer.close()


def read(broker: LocalKafka, topic: str, count: int) -> list[bytes]:
    """The first `count` records, or fewer when they do not come."""
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, consumer_timeout_ms=10_000)
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek_to_beginning()
    values = [record.value for _, record in zip(range(count), consumer, strict=False)]
    consumer.close()
    return values


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or " Z " not in Path(f"/proc/{pid}/stat").read_text()


def wait_until(condition: Callable[[], bool], otherwise: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)
