"""A real Apache Kafka broker on this machine: one KRaft node, without Docker and without an installed Java."""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self
from uuid import uuid4

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from pydantic import Field

from ops.distribution import KAFKA_VERSION, Distribution, distribution
from schemas.settings import DONE, Command, Refused

HOST: Final = "127.0.0.1"

_NODE: Final = 1
_SETTINGS: Final = {
    "process.roles": "broker,controller",
    "node.id": str(_NODE),
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    # one node: every internal topic has one replica, and few partitions to open at the start
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # a killed broker comes back only when its old registration has run out (9 s by default)
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # a quarter of the small heap by default
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}
_JAVA_OPTIONS: Final = (
    "-Xmx512m",
    # Java 25.0.2 warns about harmless gaps in its own archive
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)
_TAIL_LINES: Final = 20
_POLL_S: Final = 0.05

# Becomes the broker, and leaves a guard behind that kills it when the pipe on stdin ends: so when the starting process
# is gone, however it went. A pipe is portable, and unlike Linux's PR_SET_PDEATHSIG not bound to the starting thread.
_GUARDED: Final = """
import os, signal, sys
broker = os.getpid()
if os.fork():
    os.execv(sys.argv[1], sys.argv[1:])
os.closerange(1, 3)
while os.read(0, 1):
    pass
if os.getppid() == broker:
    os.kill(broker, signal.SIGKILL)
"""


class BrokerFailed(Exception):
    """The broker did not start or died; the message ends with the last lines of its log."""


class LocalKafka:
    """One broker with its data directory and port; as a context manager it is started and stopped.

    It listens on 127.0.0.1 only and dies with the process that started it. `stop`, `kill` and `start` may follow each
    other in any order: data and port stay the same.

    Args:
        data_dir: the broker's files; None for a temporary directory that goes when the context ends.
        port: for clients; None or 0 for a free one.
        settings: broker settings, over the ones that make one small node, by Kafka's names.
        listeners: more ways in by name, each with its security protocol; `addresses` has where they are.
        start_timeout_s: how long `start` waits for an answer.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        port: int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        start_timeout_s: float = 60.0,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="kafka-") if data_dir is None else None
        self.data_dir = Path(self._temporary.name if self._temporary else data_dir or "").resolve()
        self.port = port or free_port()
        self._controller_port = free_port()
        self._settings = dict(settings or {})
        self._protocols = dict(listeners or {})
        self.addresses = {name: f"{HOST}:{free_port()}" for name in self._protocols}
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._recording: Path | None = None
        self._log_start = 0

    @property
    def bootstrap(self) -> str:
        """The address for clients, host:port."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The broker's log file."""
        return self.data_dir / "broker.log"

    @property
    def pid(self) -> int | None:
        """Process id of the broker, None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the broker and return once it answers a metadata request; nothing happens when it runs.

        Raises:
            BrokerFailed: it died or gave no answer in time.
            Refused: the port is taken, or another broker runs on the data.
            Unavailable: Kafka could not be downloaded.
        """
        if self.pid is not None:
            return
        self._reap()
        _claim(self.port)
        source = distribution()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            _lock(log)
            self._log_start = log.tell()
            properties = self._write_properties()
            if not (self._log_dir / "meta.properties").exists():
                self._format(source, properties)
            self._process = self._spawn(source, properties, log)
        try:
            self._wait_until_ready(time.monotonic() + self._start_timeout_s)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout_s: float = 30.0) -> None:
        """End the broker in order (SIGTERM); after `timeout_s` it is killed.

        The first time on a machine Java then writes its archive of Kafka's classes, which takes 6 s.
        """
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self.kill()
        if self._recording and self._recording.exists():
            self._recording.replace(distribution().archive)

    def kill(self) -> None:
        """End the broker at once (SIGKILL), as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def send(self, number: signal.Signals) -> None:
        """Send the broker a signal, e.g. SIGSTOP, after which it answers nobody until SIGCONT."""
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the broker's end and return its exit status."""
        return self._process.wait() if self._process else 0

    def log_tail(self) -> str:
        """The last lines that the broker has logged since its start and that are more than information."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join([line for line in lines if "] INFO " not in line][-_TAIL_LINES:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        if self._temporary:
            self._temporary.cleanup()

    @property
    def _log_dir(self) -> Path:
        return self.data_dir / "log"

    def _write_properties(self) -> Path:
        clients = ",".join([f"CLIENT://{self.bootstrap}", *(f"{name}://{at}" for name, at in self.addresses.items())])
        protocols = ["CLIENT:PLAINTEXT", "CONTROLLER:PLAINTEXT", *map(":".join, self._protocols.items())]
        settings = {
            **_SETTINGS,
            "listeners": f"{clients},CONTROLLER://{HOST}:{self._controller_port}",
            "advertised.listeners": clients,
            "listener.security.protocol.map": ",".join(protocols),
            # static voters, so that ports may change from one run on the data to the next
            "controller.quorum.voters": f"{_NODE}@{HOST}:{self._controller_port}",
            "log.dirs": str(self._log_dir),
            **self._settings,
        }
        path = self.data_dir / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        return path

    def _format(self, source: Distribution, properties: Path) -> None:
        # joined with =: an id may begin with a dash
        cluster = "--cluster-id=" + urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
        archive = [f"-XX:AOTCache={source.archive}"] if source.archive.exists() else []
        command = [*_java(source, *archive), "kafka.tools.StorageTool", "format", cluster, "-c", str(properties)]
        # S603: both commands are built here, from our own paths
        formatted = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)  # noqa: S603
        if formatted.returncode:
            raise BrokerFailed(f"{self.data_dir} could not be formatted\n{formatted.stdout}{formatted.stderr}")

    def _spawn(self, source: Distribution, properties: Path, log: BinaryIO) -> subprocess.Popen[bytes]:
        guard = [sys.executable, "-I", "-S", "-c", _GUARDED]
        self._recording = None
        if source.archive.exists():
            archive = f"-XX:AOTCache={source.archive}"
        else:
            # under a name of its own until it is complete: several brokers may stop at once
            self._recording = source.archive.with_suffix(f".{os.getpid()}.{self.port}")
            archive = f"-XX:AOTCacheOutput={self._recording}"
        return subprocess.Popen(  # noqa: S603
            [*guard, *_java(source, archive), "kafka.Kafka", str(properties)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C ends the program, and the program ends its broker
        )

    def _wait_until_ready(self, deadline: float) -> None:
        while not self._answers():
            if self.pid is None:
                raise BrokerFailed(f"the broker ended with status {self.wait()}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                waited = f"{self._start_timeout_s:g} s"
                raise BrokerFailed(f"no answer at {self.bootstrap} within {waited}\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def _answers(self) -> bool:
        """Whether a metadata request lists the broker: it does from when it may lead partitions."""
        with socket.socket() as probe:
            if probe.connect_ex((HOST, self.port)):
                return False
        try:
            client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            return _NODE in client.list_topics(timeout=1).brokers
        except KafkaException:
            return False

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            if self._process.stdin:
                self._process.stdin.close()  # the guard ends
            self._process = None


def free_port() -> int:
    """A free port below the ephemeral range.

    While the broker is down its port stays free: a client that keeps dialling a local ephemeral port can connect to
    itself and so hold it.
    """
    for port in random.sample(range(20_000, 32_000), 50):
        with suppress(Refused):
            _claim(port)
            return port
    raise Refused("no free port in 20000..31999")


def _claim(port: int) -> None:
    """Check that the broker can listen on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Refused(f"port {port} cannot be used: {os.strerror(error.errno or 0).lower()}") from None


def _lock(log: BinaryIO) -> None:
    """Lock the log file for as long as a process has it open: the broker will.

    Kafka's own lock comes too late, when a second node has already written to the first one's metadata.
    """
    try:
        flock(log, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise Refused(f"another broker runs on the data in {Path(log.name).parent}") from None


def _java(source: Distribution, *options: str) -> list[str]:
    return [str(source.java), *options, *_JAVA_OPTIONS, "-cp", source.class_path]


class Kafka(Command):
    """run a local Kafka broker in the foreground"""

    port: int = Field(9092, ge=0, le=65535, description="port on 127.0.0.1, 0 for a free one")
    data_dir: Path = Field(Path("data"), description="the broker keeps its files in the folder kafka in here")

    def run(self) -> int:
        """Start it, say where it is, and wait for Ctrl-C."""
        kafka = LocalKafka(self.data_dir / "kafka", self.port)
        for end in (signal.SIGINT, signal.SIGTERM):  # a shell's background job would ignore the first one
            signal.signal(end, signal.default_int_handler)
        with suppress(KeyboardInterrupt), kafka:
            print(f"Kafka {KAFKA_VERSION} at {kafka.bootstrap}, data in {kafka.data_dir}; Ctrl-C stops it", flush=True)
            raise BrokerFailed(f"the broker ended with status {kafka.wait()}\n{kafka.log_tail()}")
        return DONE
