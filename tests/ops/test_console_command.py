"""The console as a command."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

AWAY = "127.0.0.1:1"
TOKEN = "0123456789abcdef"


@contextmanager
def console(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "ops", "console", "--broker", AWAY, "--port", "0", *arguments]
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_serves_without_a_broker_and_ends_in_order(end: signal.Signals):
    with console() as process:
        address = first_line(process).split()[2].removesuffix(";")
        assert address.startswith("http://127.0.0.1:")
        with urlopen(f"{address}health") as health:
            assert health.read() == b'{"status": "ok", "broker": "connecting"}'
        with urlopen(f"{address}live") as live:
            live.readline()
            process.send_signal(end)
            assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(("token", "warned"), [({}, True), ({"RECOMMENDER_CONSOLE_TOKEN": TOKEN}, False)])
def test_all_the_world_may_read_only_after_a_warning(token: dict[str, str], warned: bool):
    with console("--host", "0.0.0.0", **token) as process:
        assert first_line(process).startswith("Console at http://0.0.0.0:")
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
        assert bool(said) == ("set RECOMMENDER_CONSOLE_TOKEN" in said) == warned
        assert TOKEN not in said


def test_a_taken_port_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other, console("--port", str(other.getsockname()[1])) as process:
        assert process.wait(60) == 2
        assert process.stderr is not None
        assert process.stderr.read().endswith("cannot be listened on: address already in use\n")


def test_a_token_may_be_in_a_file(tmp_path: Path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with console("--console-token-file", str(tmp_path / "token")) as process:
        address = first_line(process).split()[2].removesuffix(";")
        with urlopen(Request(address, headers={"Authorization": f"Bearer {TOKEN}"})) as page:
            assert page.status == 200
        with pytest.raises(HTTPError, match="401"):
            urlopen(address)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--console-token-file", "no-such-file"], "console_token_file no-such-file cannot be read: No such file"),
        (["--console-token-file", "no-such-file", "--token", TOKEN], "console_token and console_token_file: give one"),
    ],
)
def test_a_token_that_cannot_be_read_is_refused(arguments: list[str], said: str):
    with console(*arguments) as process:
        assert process.wait(60) == 2
        assert process.stderr is not None
        assert process.stderr.read().startswith(f"python -m ops console: {said}")


@pytest.mark.parametrize(
    "request_head",
    [b"GET /" + b"x" * (17 << 10), b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (17 << 10)],
    ids=["line", "header"],
)
def test_a_request_without_an_end_is_cut_off(request_head: bytes):
    with console() as process:
        port = int(first_line(process).split()[2].removesuffix("/;").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(request_head)
            assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_a_short_token_is_refused_and_not_shown():
    with console("--token", "seven77") as process:
        assert process.wait(60) == 2
        assert process.stderr is not None
        assert process.stderr.read() == "python -m ops console: console_token: must have at least 16 characters\n"
