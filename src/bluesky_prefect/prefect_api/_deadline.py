"""One deadline for a whole request to Prefect."""

import socket
import ssl
import sys
import threading
import urllib.request
import weakref
from contextlib import suppress
from typing import Any

import httpcore
import httpx


class DeadlineTransport(httpx.BaseTransport):
    """Send requests, and give up each that has no whole answer after so many seconds, wherever it hangs.

    httpx's own time-outs are those of single steps: a server that drips bytes meets them for ever, addresses are tried
    one after the other, and looking up a name has none. So another thread does all of it, and is waited for.

    Where no thread can be started, a request raises `httpx.ConnectError` and is not made.

    A request that is given up raises `httpx.ReadTimeout`. Its connection is shut down, which ends the thread. One that
    looks up a name ends when the system's resolver gives up, one that connects after httpx's own time-out; neither
    sends anything then.
    """

    def __init__(self, transport: httpx.BaseTransport, timeout_s: float) -> None:
        self._transport = transport
        self._timeout_s = timeout_s
        self._streams: weakref.WeakSet[httpcore.NetworkStream] = weakref.WeakSet()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the whole answer."""
        exchange = _Exchange(self._transport, request, self._streams)
        try:
            threading.Thread(target=exchange.run, name="bluesky-prefect-request", daemon=True).start()
        except RuntimeError as error:
            if not (sys.is_finalizing() or "interpreter shutdown" in str(error)):
                # The system has no thread to spare now. Without one there is no deadline.
                raise httpx.ConnectError(str(error), request=request) from error
            # From Python 3.12 on no thread can be started at the end of an interpreter, long before it says that it
            # is finalizing: whoever waits for this one then does so for a limited time.
            exchange.run()
        if not exchange.ended.wait(self._timeout_s):
            exchange.give_up()
            raise httpx.ReadTimeout(f"no whole answer within {self._timeout_s:g} s", request=request)
        return exchange.response()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()


class _Exchange:
    """A request and its answer."""

    def __init__(
        self, transport: httpx.BaseTransport, request: httpx.Request, streams: "weakref.WeakSet[httpcore.NetworkStream]"
    ) -> None:
        self.ended = threading.Event()
        self._transport = transport
        self._request = request
        self._streams = streams
        self._given_up = False
        self._outcome: httpx.Response | BaseException | None = None
        request.extensions["trace"] = self._note

    def run(self) -> None:
        try:
            response = self._transport.handle_request(self._request)
            try:
                content = b"".join(response.iter_raw())
            finally:
                response.close()
            self._outcome = httpx.Response(
                response.status_code,
                headers=response.headers,
                stream=httpx.ByteStream(content),
                extensions=response.extensions,
            )
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
            self._outcome = error
        finally:
            self.ended.set()

    def response(self) -> httpx.Response:
        if isinstance(self._outcome, httpx.Response):
            return self._outcome
        raise self._outcome or RuntimeError("The request has not ended.")

    def give_up(self) -> None:
        self._given_up = True
        for stream in list(self._streams):  # the others are idle
            connected = stream.get_extra_info("socket")
            with suppress(OSError):
                # Not closed: the other thread may read from what has the number next. And as any socket: an encrypted
                # one's own method changes what the other thread uses.
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

    def _note(self, event: str, info: dict[str, Any]) -> None:
        """Take note of a connection that is made; called by httpcore before anything is sent by it."""
        stream = info.get("return_value")
        if isinstance(stream, httpcore.NetworkStream):
            self._streams.add(stream)
            if self._given_up:
                raise httpx.ReadTimeout(f"given up before {event}", request=self._request)


def prefect_transport(timeout_s: float, *, retries: int) -> dict[str, Any]:
    """Return the settings by which Prefect's client has a deadline, and is otherwise as Prefect makes it.

    A request may take `timeout_s` seconds in all, in which connecting is tried again `retries` times.
    """
    from prefect.settings import PREFECT_API_ENABLE_HTTP2, PREFECT_API_URL

    context, proxy = _tls(), _proxy(PREFECT_API_URL.value() or "")
    transport = httpx.HTTPTransport(
        verify=context, http2=PREFECT_API_ENABLE_HTTP2.value(), proxy=proxy, retries=retries
    )
    return {"transport": DeadlineTransport(transport, timeout_s), "verify": context, "timeout": timeout_s}


def _tls() -> ssl.SSLContext:
    """Return what is trusted, by Prefect's settings."""
    import certifi
    from prefect.settings import PREFECT_API_SSL_CERT_FILE, PREFECT_API_TLS_INSECURE_SKIP_VERIFY

    context = ssl.create_default_context(cafile=PREFECT_API_SSL_CERT_FILE.value() or certifi.where())
    if PREFECT_API_TLS_INSECURE_SKIP_VERIFY.value():
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for an address."""
    parts = httpx.URL(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
