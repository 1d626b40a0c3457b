"""The console's web application: the page, its live updates, and the JSON API that `static/openapi.json` describes."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Send

from ops.console.access import OPEN, SafeHeaders, TokenNeeded
from ops.console.metrics import Metrics
from ops.console.traffic import Cursor, Traffic

_STATIC: Final = Path(__file__).parent / "static"
_UPDATE_S: Final = 0.5
_SLOW_S: Final = 10.0
"""a reader who takes no update for so long is dropped"""
_MOST_READERS: Final = 64


class Web:
    """The routes over one `Traffic`.

    Args:
        traffic: what is shown.
        metrics: what is exposed.
        about: names of the app and its topics, for the page.
    """

    def __init__(self, traffic: Traffic, metrics: Metrics, about: dict[str, Any]) -> None:
        self.stopping = False
        """set when the server ends: live updates would never"""
        self._traffic = traffic
        self._metrics = metrics
        self._about = about
        self._readers = 0

    def application(self, token: str | None = None, hosts: Sequence[str] | None = None) -> Starlette:
        """The ASGI application.

        Args:
            token: needed for all routes but `/health`, if given.
            hosts: names that requests may be addressed to; None for any.
        """
        routes = [
            Route("/", self._page),
            Route("/live", self._live),
            Route("/users/{user_id:path}/recommendations", self._recommendations),
            Route("/users/{user_id:path}", self._user),
            Route(OPEN, self._health),
            Route("/metrics", self._exposition),
            Route("/openapi.json", self._openapi),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ]
        middleware = [Middleware(SafeHeaders)]
        if hosts is not None:
            # a page elsewhere could have its own name point here
            middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False))
        if token is not None:
            middleware.append(Middleware(TokenNeeded, token=token))
        return Starlette(routes=routes, middleware=middleware)

    def _page(self, _: Request) -> Response:
        return FileResponse(_STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    def _openapi(self, _: Request) -> Response:
        return FileResponse(_STATIC / "openapi.json")

    def _health(self, _: Request) -> Response:
        return _json({"status": "ok", "broker": self._traffic.broker})

    def _exposition(self, _: Request) -> Response:
        return Response(self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _recommendations(self, request: Request) -> Response:
        return _found(self._traffic.recommendations, request.path_params["user_id"])

    def _user(self, request: Request) -> Response:
        return _found(self._traffic.user, request.path_params["user_id"])

    async def _live(self, request: Request) -> Response:
        if self._readers >= _MOST_READERS:
            return _json({"error": f"{_MOST_READERS} readers follow already"}, 503)
        return _Updates(self._updates(_cursor(request.headers.get("last-event-id", ""))))

    async def _updates(self, cursor: Cursor) -> AsyncGenerator[str, None]:
        self._readers += 1
        try:
            while not self.stopping:
                update, cursor = await run_in_threadpool(self._traffic.update, cursor)
                yield f"id: {cursor.second} {cursor.row}\ndata: {json.dumps(self._about | update)}\n\n"
                await asyncio.sleep(_UPDATE_S)
        finally:
            self._readers -= 1


class _Updates(StreamingResponse):
    """Server-sent events. Nothing is queued: a slow reader gets fewer and larger updates, and none when it stops
    reading."""

    def __init__(self, updates: AsyncGenerator[str, None]) -> None:
        self._updates = updates
        super().__init__(updates, headers={"Cache-Control": "no-store"}, media_type="text/event-stream")

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(_SLOW_S):
                await send(message)

        try:
            with suppress(TimeoutError):
                await super().stream_response(send_in_time)
        finally:
            await self._updates.aclose()


def _found(find: Callable[[str], dict[str, Any] | None], user_id: str) -> Response:
    found = find(user_id)
    return _json({"error": f"nothing is known here of user {user_id}"}, 404) if found is None else _json(found)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(json.dumps(content), status, headers, "application/json")


def _cursor(text: str) -> Cursor:
    """Where a reader who was cut off goes on."""
    try:
        second, row = map(int, text.split())
    except ValueError:
        return Cursor()
    return Cursor(second, row)
