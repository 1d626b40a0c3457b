"""The worker's HTTP server: `/metrics` for Prometheus, `/live` and `/ready` for whoever runs the worker.

It answers from threads of its own, so that a worker that stands still can say so. A process that is frozen as a whole
cannot: probes need a time limit.
"""

import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from schemas.settings import Refused
from stream_app.health import Health

_STOP_S: Final = 0.1
"""how long the end of a server takes at most"""


def application(health: Health, registry: CollectorRegistry) -> WSGIApplication:
    """A probe is answered 200, or 503 with a line for each reason."""
    metrics = make_wsgi_app(registry)

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)  # type: ignore[no-any-return]
            case "/live":
                return _probe(health.stuck(), start_response)
            case "/ready":
                return _probe(health.waits_for(), start_response)
        return _text(HTTPStatus.NOT_FOUND, ["there are /metrics, /live and /ready"], start_response)

    return respond


@contextmanager
def serve(application: WSGIApplication, host: str, port: int) -> Iterator[int]:
    """Serve it until the context ends; gives the port, which the system chooses for 0.

    Raises:
        Refused: the address cannot be used.
    """
    try:
        server = make_server(host, port, application, _Server6 if ":" in host else ThreadingWSGIServer, _QuietHandler)
    except OSError as error:
        raise Refused(f"web_host {host}, web_port {port}: {error.strerror}") from error
    with server:
        threading.Thread(target=server.serve_forever, args=(_STOP_S,), name="web", daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


class _Server6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    timeout = 10  # seconds that a client may say nothing

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Probes come all the time."""


def _probe(problems: Sequence[str], start_response: StartResponse) -> Iterable[bytes]:
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return _text(status, problems or ["ok"], start_response)


def _text(status: HTTPStatus, lines: Sequence[str], start_response: StartResponse) -> Iterable[bytes]:
    start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
    return ["".join(f"{line}\n" for line in lines).encode()]
