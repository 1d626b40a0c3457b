"""`python -m ops console`: the console as a program."""

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

import uvicorn
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from ops.console.feed import Feed
from ops.console.metrics import Metrics
from ops.console.traffic import ROWS_A_SECOND, Traffic
from ops.console.web import Web
from schemas.settings import DONE, Command, Refused

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_SHORTEST_TOKEN: Final = 16
_LONGEST_TOKEN: Final = 4096
_MOST_HEAD_BYTES: Final = 16 << 10
"""of a request's line and headers"""
_MOST_CONNECTIONS: Final = 256
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


class Console(Command):
    """show live traffic, lists and models on a web page"""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(cli_shortcuts={"console-token": "token"})

    host: str = Field("127.0.0.1", description="address to listen on; set a token for any but this machine's own")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on, 0 for a free one")
    console_token: SecretStr | None = Field(
        None, description="what readers must know; better in the environment, where other users cannot see it"
    )
    console_token_file: Path | None = Field(None, description="file that holds the token instead")
    read_back: int = Field(
        100_000, ge=0, description="events, and as many lists, to read back at the start, over all partitions"
    )
    users: int = Field(10_000, ge=1, description="users to remember, those active last; with the next, some 300 MB")
    user_events: int = Field(100, ge=1, description="events to remember of each")

    def run(self) -> int:
        """Serve until Ctrl-C."""
        token = self._token()
        if token is not None and len(token) < _SHORTEST_TOKEN:
            raise Refused(f"console_token: must have at least {_SHORTEST_TOKEN} characters")
        listening = _listen(self.host, self.port)
        local = _is_local(listening.getsockname()[0])
        metrics = Metrics()
        traffic = Traffic(metrics, self.users, self.user_events)
        about = {"app": self.app, "cluster": self.broker, "rows_a_second": ROWS_A_SECOND}
        web = Web(traffic, metrics, about)
        server = _Server(web, token, _LOCAL_NAMES if local else None)
        feed = Feed(self, traffic, self.read_back)
        if not local and token is None:
            print("whoever reaches the console can read everything: set RECOMMENDER_CONSOLE_TOKEN", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            for number in _ENDING:  # a shell's background job would ignore the first one
                signal.signal(number, signal.default_int_handler)
            print(f"Console at {_address(listening)}; Ctrl-C stops it", flush=True)
            with feed:
                server.run(sockets=[listening])
        if feed.failure is not None:
            raise feed.failure
        return DONE

    def _token(self) -> str | None:
        if self.console_token_file is None:
            return self.console_token.get_secret_value() if self.console_token else None
        if self.console_token:
            raise Refused("console_token and console_token_file: give one of them")
        try:
            with self.console_token_file.open() as file:
                return file.read(_LONGEST_TOKEN).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Refused(f"console_token_file {self.console_token_file} cannot be read: {reason}") from None


class _Server(uvicorn.Server):
    """Ends the live updates before it waits for the connections' end."""

    def __init__(self, web: Web, token: str | None, hosts: Sequence[str] | None) -> None:
        super().__init__(
            uvicorn.Config(
                web.application(token, hosts),
                log_config=None,
                access_log=False,  # it would have the token
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=2,
                http="h11",
                h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
                limit_concurrency=_MOST_CONNECTIONS,
            )
        )
        self._web = web

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._web.stopping = True
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise Refused(f"host {host}: {(error.strerror or str(error)).lower()}") from None
    except OSError as error:
        raise Refused(f"{host}:{port} cannot be listened on: {os.strerror(error.errno or 0).lower()}") from None


def _is_local(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _address(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
