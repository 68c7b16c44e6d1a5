"""A page that signs a browser in to a server's UI, beside the server's own application.

Prefect's UI asks for user and password once, and keeps them in the browser's local storage. Tiled's asks for nothing,
and shows nothing to a browser that has no key. This page has them let in whoever has a link with a token, which works
once and for ten minutes.
"""

import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from bluesky_prefect.stack._sign_in import LINKS, SIGN_IN, SIGNED_IN

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

LINK_LASTS_S = 600.0
# More are not open at once, unless somebody asks for the status every few seconds.
_MAX_LINKS = 200
_LONGEST_TOKEN = 100
_PAGE = Path(__file__).with_name("sign_in.html")
_SCRIPT = Path(__file__).with_name("sign_in.js")
_PATHS = {SIGN_IN, f"{SIGN_IN}.js", SIGNED_IN, LINKS}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
}


class OneTimeTokens:
    """Tokens of which each is good once, for ten minutes. The clock gives a time in seconds that nobody sets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._made: dict[str, float] = {}

    def make(self) -> str:
        """Return a new token; the oldest is void if there are too many."""
        token = secrets.token_urlsafe(24)
        self._made[token] = self._clock()
        for old in list(self._made)[:-_MAX_LINKS]:
            del self._made[old]
        return token

    def take(self, token: str) -> bool:
        """Tell whether a token is good, and make it void."""
        made = self._made.pop(token, None)
        return made is not None and self._clock() - made <= LINK_LASTS_S


class SignIn:
    """A server's application with the page.

    Parameters
    ----------
    app : ASGIApp
        The server's own.
    authorization : str
        Header of those who may make links.
    home : str
        Path of the page that a browser is led to.
    kept : str, optional
        What the browser is to keep in its local storage.
    reads_by_cookie : bool, optional
        Whether the browser gets a cookie with which it may read as whoever makes links. It holds no key, since a
        browser sends it to each port of this machine; it lasts until the server ends.
    """

    def __init__(
        self, app: "ASGIApp", authorization: str, *, home: str, kept: str = "", reads_by_cookie: bool = False
    ) -> None:
        self._app = app
        self._authorization = authorization
        self._kept = kept
        self._sessions: set[str] | None = set() if reads_by_cookie else None
        self._tokens = OneTimeTokens()
        self._pages = Starlette(
            routes=[
                Route(SIGN_IN, lambda _: FileResponse(_PAGE, headers=_HEADERS)),
                Route(f"{SIGN_IN}.js", lambda _: FileResponse(_SCRIPT, headers=_HEADERS)),
                Route(SIGNED_IN, lambda _: RedirectResponse(home)),
                Route(SIGN_IN, self._exchange, methods=["POST"]),
                Route(LINKS, self._make_link, methods=["POST"]),
            ]
        )

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer for the page, or have Prefect answer."""
        if scope["type"] != "http":
            app = self._app
        elif redirection := _at_127_0_0_1(scope):
            app = redirection
        else:
            app = self._pages if scope["path"] in _PATHS else self._app
            scope = scope if app is self._pages else self._as_signed_in(scope)
        await app(scope, receive, send)

    async def _exchange(self, request: "Request") -> Response:
        token = b""
        async for part in request.stream():
            token += part
            if len(token) > _LONGEST_TOKEN:  # whoever fills the memory of the server needs no password for that
                break
        if not self._tokens.take(token.decode("latin-1")):
            return Response(status_code=403, headers=_HEADERS)
        answer = JSONResponse({"password": self._kept}, headers=_HEADERS)
        if self._sessions is not None:
            session = secrets.token_urlsafe(24)
            self._sessions.add(session)
            # By its port, since another stack of this machine has a cookie of its own.
            answer.set_cookie(_cookie_of(request.scope), session, httponly=True, samesite="strict")
        return answer

    def _as_signed_in(self, scope: "Scope") -> "Scope":
        """Return a request as that of whoever makes links, if it only reads and its cookie says so."""
        from starlette.requests import cookie_parser

        headers = dict(scope["headers"])
        if not self._sessions or scope["method"] not in {"GET", "HEAD"} or b"authorization" in headers:
            return scope
        cookies = cookie_parser(headers.get(b"cookie", b"").decode("latin-1"))
        if cookies.get(_cookie_of(scope)) not in self._sessions:
            return scope
        own = (b"authorization", self._authorization.encode())
        return {**scope, "headers": [*scope["headers"], own]}

    async def _make_link(self, request: "Request") -> Response:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), self._authorization.encode()):
            return Response(status_code=401, headers=_HEADERS)
        return JSONResponse({"token": self._tokens.make()}, headers=_HEADERS)


def _cookie_of(scope: "Scope") -> str:
    """Return the cookie's name, with the port that the browser asks at: that of a tunnel, perhaps."""
    port = dict(scope["headers"]).get(b"host", b"").decode("latin-1").rpartition(":")[2]
    return f"bluesky-prefect-{port if port.isdecimal() else 80}"


def _at_127_0_0_1(scope: "Scope") -> Response | None:
    """Send a browser that looks at the UI under the name localhost to the address.

    Another user may listen at localhost's other address, ::1. A page from there must not find the password.
    """
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
    name, colon, port = host.partition(":")
    if name != "localhost" or scope["method"] != "GET" or scope["path"].startswith("/api/"):
        return None
    query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
    return RedirectResponse(f"http://127.0.0.1{colon}{port}{scope['raw_path'].decode('latin-1')}{query}")
