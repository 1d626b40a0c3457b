"""The console over HTTP: its routes, who may read them, and what a browser is told."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn
from starlette.applications import Starlette

from ops.console import web
from ops.console.metrics import Metrics
from ops.console.traffic import Traffic
from ops.console.web import Web
from ops.live import LiveEvent, Received
from schemas.recommendation import Cause, Recommendation

TOKEN = "correct horse battery staple"
HOSTS = ["localhost", "127.0.0.1", "[::1]"]
DEADLINE_S = 30.0


class Running:
    """The console on a free port; a method for each thing that a client does."""

    def __init__(self, console: Web, port: int) -> None:
        self.web = console
        self.port = port

    def get(self, path: str, **headers: str) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=named)
        return connection.getresponse()

    def json(self, path: str, status: int = 200) -> Any:
        response = self.get(path)
        assert response.status == status
        return json.loads(response.read())


@contextmanager
def running(token: str | None = None, **about: Any) -> Iterator[Running]:
    metrics = Metrics()
    console = Web(Traffic(metrics), metrics, about)
    app = console.application(token, HOSTS)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Running(console, listening.getsockname()[1])
    finally:
        console.stopping = server.should_exit = True
        thread.join()


@pytest.fixture
def console() -> Iterator[Running]:
    with running() as found:
        yield found


@pytest.fixture
def guarded() -> Iterator[Running]:
    with running(TOKEN) as found:
        yield found


def add(console: Running, user_id: str, offset: int, *items: str) -> None:
    list_ = Recommendation(user_id, [(i, 0.5) for i in items], 7, Cause.EVENT, 0, offset, 0, None, 1, 9)
    traffic = console.web._traffic
    with traffic.lock:
        traffic.add_event(LiveEvent(0, offset, user_id, "seen", round(1000 * time.time())))
        traffic.add_list(Received(list_, 1000 * time.time()), live=True)


def test_every_route_is_described():
    metrics = Metrics()
    app: Starlette = Web(Traffic(metrics), metrics, {}).application()
    described = json.loads(Path(web.__file__).with_name("static").joinpath("openapi.json").read_text())
    paths = {route.path.replace(":path}", "}") for route in app.routes}  # type: ignore[attr-defined]
    assert {path.replace("/static/{path}", "/static") for path in described["paths"]} == paths


def test_a_list_is_answered_with_what_made_it(console: Running):
    console.web._traffic.add_title("a", "Alien")
    add(console, "anna", 3, "a", "b")
    assert console.json("/users/anna/recommendations") == {
        "user_id": "anna",
        "items": [{"item_id": "a", "title": "Alien", "score": 0.5}, {"item_id": "b", "title": None, "score": 0.5}],
        "model": 7,
        "cause": "event",
        "event": {"partition": 0, "offset": 3, "event_id": None},
        "history_length": 1,
        "emitted_at_ms": 9,
    }


@pytest.mark.parametrize("user_id", ["a/b", "recommendations", "<script>", "ü?#&", "%2F", "\u2028"])
def test_any_user_id_can_be_asked_for(console: Running, user_id: str):
    add(console, user_id, 1, "a")
    assert console.json(f"/users/{quote(user_id, safe='')}")["user_id"] == user_id
    assert console.json(f"/users/{quote(user_id, safe='')}/recommendations")["user_id"] == user_id


def test_an_unknown_user_is_not_found(console: Running):
    assert "nobody" in console.json("/users/nobody", 404)["error"]
    assert "nobody" in console.json("/users/nobody/recommendations", 404)["error"]


def test_health_and_metrics(console: Running):
    assert console.json("/health") == {"status": "ok", "broker": "connecting"}
    add(console, "anna", 1)
    exposed = console.get("/metrics").read().decode()
    for name in ("events_total", "hits_total", "popular_hits_total", "latency_seconds_bucket"):
        assert f"\nrecommender_live_{name}" in exposed


def test_live_updates_go_on_where_a_reader_was_cut_off(console: Running):
    add(console, "anna", 1, "a")
    updates = events(console.get("/live"))
    first, update = next((e, u) for e, u in updates if u["rows"])
    assert [row["user_id"] for row in update["rows"]] == ["anna"]
    add(console, "bo", 2, "a")
    _, update = next((e, u) for e, u in events(console.get("/live", Last_Event_ID=first)) if u["rows"])
    assert [row["user_id"] for row in update["rows"]] == ["bo"]


def test_a_wrong_last_event_id_begins_anew(console: Running):
    add(console, "anna", 1, "a")
    assert next(update for _, update in events(console.get("/live", Last_Event_ID="x 1 y")) if update["rows"])


def test_a_reader_who_stops_reading_is_dropped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web, "_SLOW_S", 0.3)
    with running(much="x" * 4_000_000) as console, socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", console.port))
        reader.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: console.web._readers == 1)
        wait_until(lambda: console.web._readers == 0)
        assert console.json("/health")["status"] == "ok"


def test_more_readers_than_can_be_served_are_refused(monkeypatch: pytest.MonkeyPatch, console: Running):
    monkeypatch.setattr(web, "_MOST_READERS", 1)
    first = console.get("/live")
    next(events(first))
    assert console.get("/live").status == 503


@pytest.mark.parametrize("path", ["/", "/live", "/users/anna", "/metrics", "/openapi.json", "/static/console.js", "/x"])
def test_with_a_token_nothing_but_health_is_open(guarded: Running, path: str):
    refused = guarded.get(path)
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert guarded.get(path, Authorization="Bearer wrong").status == 401
    assert guarded.get(path, Authorization=f"Basic {TOKEN}").status == 401
    assert guarded.get(path, Cookie="console=wrong").status == 401
    assert guarded.get(path, Authorization=f"Bearer {TOKEN}").status == (404 if path in ("/users/anna", "/x") else 200)
    assert guarded.get("/health").status == 200


def test_opening_the_page_with_the_token_sets_a_cookie_that_the_rest_takes(guarded: Running):
    opened = guarded.get(f"/?token={quote(TOKEN)}")
    assert opened.status == 200
    cookie, *flags = opened.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(flags)
    assert TOKEN not in cookie
    assert guarded.get("/metrics", Cookie=cookie).status == 200
    assert guarded.get("/?token=wrong").status == 401
    assert guarded.get(f"/metrics?token={quote(TOKEN)}").status == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
    ],
)
def test_a_name_that_somebody_else_points_here_is_refused(console: Running, host: str, status: int):
    assert console.get("/users/anna" if status == 400 else "/", Host=host).status == status


@pytest.mark.parametrize("path", ["/", "/static/console.js", "/metrics", "/users/nobody"])
def test_browsers_are_told_to_load_nothing_from_elsewhere(console: Running, path: str):
    policy = console.get(path).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_nothing_can_be_written(console: Running):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        connection = HTTPConnection("127.0.0.1", console.port, timeout=DEADLINE_S)
        connection.request(method, "/users/anna")
        assert connection.getresponse().status == 405


def events(response: HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    """Id and data of each server-sent event."""
    assert response.headers["Content-Type"].startswith("text/event-stream")
    event_id = ""
    for line in response:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "id":
            event_id = value
        elif name == "data":
            yield event_id, json.loads(value)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
