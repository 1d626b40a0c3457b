"""Who may read, and what a browser may do with what it reads."""

import hmac
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN: Final = "/health"
"""the path that needs no token"""

_COOKIE: Final = "console"
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class SafeHeaders:
    """Tells browsers to load nothing from elsewhere, and to let nobody embed or read the page from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, _with_headers(send, _HEADERS))


class TokenNeeded:
    """Lets in who has the token: as `Authorization: Bearer`, or in a cookie that opening `/?token=...` sets.

    Args:
        app: what is behind it.
        token: compared in constant time; the cookie holds a digest of it.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()
        self._digest = hmac.digest(self._token, b"console cookie", "sha256").hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["path"] == OPEN or self._known(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["path"] == "/" and self._is_token(*_tokens(scope)):
            secure = "; Secure" if scope["scheme"] == "https" else ""
            cookie = f"{_COOKIE}={self._digest}; Path=/; HttpOnly; SameSite=Strict{secure}"
            await self._app(scope, receive, _with_headers(send, {"Set-Cookie": cookie}))
        else:
            refusal = PlainTextResponse(
                "A token is needed: open /?token=... once, or send Authorization: Bearer ...\n",
                401,
                {"WWW-Authenticate": "Bearer"},
            )
            await refusal(scope, receive, send)

    def _known(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(bearer.strip()):
            return True
        cookie = cookie_parser(headers.get("cookie", "")).get(_COOKIE, "")
        return hmac.compare_digest(cookie.encode(), self._digest.encode())

    def _is_token(self, *given: str) -> bool:
        return any(hmac.compare_digest(one.encode(), self._token) for one in given)


def _tokens(scope: Scope) -> list[str]:
    return parse_qs(scope["query_string"].decode("latin-1")).get("token", [])


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers
