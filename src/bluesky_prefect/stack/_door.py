"""The door of a server of the stack, which admits a browser's requests only from pages of the server itself."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A browser that was led here by another name for this machine (DNS rebinding) takes the page that led it for ours.
_HOSTS = {"127.0.0.1", "localhost", "[::1]"}
_ASKED = (b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode")
# In the query of an address that signs a browser in to Tiled.
_KEY = "api_key"
# They load scripts from elsewhere, which could read what a browser keeps for this server.
_SCRIPTS_OF_OTHERS = {"/docs", "/redoc", "/api/docs", "/api/redoc"}
_HEADERS = [
    # A page that shows this one in a frame could have a person click in it.
    (b"x-frame-options", b"DENY"),
    # Nor may text that came with a run make a browser load pictures from elsewhere.
    (b"content-security-policy", b"frame-ancestors 'none'; img-src 'self' data: blob:"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]


class Door:
    """An ASGI application that lets requests and web sockets through to another one, or refuses them.

    Browsers tell the name that led them here (``Host``), and with everything but plain navigation the page that asks
    (``Origin``). Programs send no ``Origin``; what they may do is for their credentials to decide.
    """

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or a web socket that wants to be opened."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif problem := _problem(scope["path"], scope["query_string"], scope["headers"]):
            await _refuse(scope, receive, send, *problem)
        else:
            await self._app(scope, receive, _with_headers(send))


def _problem(path: str, query: bytes, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, str] | None:
    hosts, origins, sites, modes = (
        [value.decode("latin-1").lower() for key, value in headers if key == name] for name in _ASKED
    )
    if len(hosts) != 1 or hosts[0].removesuffix(f":{_port(hosts[0])}") not in _HOSTS:
        return 400, "This server is for this machine only, at 127.0.0.1."
    if any(origin != f"http://{hosts[0]}" for origin in origins):
        return 403, "Pages of other servers may not ask this one."
    if {"cross-site", "same-site"} & set(sites) and modes != ["navigate"]:
        # A picture or a script of this server, in a page of another: a browser asks for it without an Origin.
        return 403, "Pages of other servers may show links to this one, and nothing of it."
    if "cross-site" in sites and _KEY in dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)):
        # Tiled makes a cookie of the key of any address: a wrong one signs a browser out of it.
        return 403, "Links on pages of other sites carry no key for this server: type the address by hand."
    if path.rstrip("/") in _SCRIPTS_OF_OTHERS:
        return 404, "This page would load scripts from elsewhere."
    return None


def _port(host: str) -> str:
    tail = host.rpartition(":")[2]
    return tail if tail.isdecimal() else ""


async def _refuse(scope: "Scope", receive: "Receive", send: "Send", status: int, why: str) -> None:
    from starlette.responses import PlainTextResponse
    from starlette.websockets import WebSocketClose

    if scope["type"] == "websocket":
        # Before it was accepted: the browser is answered 403.
        await WebSocketClose(code=1008, reason=why)(scope, receive, send)
    else:
        await PlainTextResponse(why + "\n", status)(scope, receive, send)


def _with_headers(send: "Send") -> "Send":
    async def sending(message: "Message") -> None:
        if message["type"] == "http.response.start":
            present: Any = message.get("headers", [])
            names = {name.lower() for name, _ in present}
            message["headers"] = [*present, *(pair for pair in _HEADERS if pair[0] not in names)]
        await send(message)

    return sending
