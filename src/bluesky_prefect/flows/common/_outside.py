"""Questions to services on the internet, which may cost a known time and no more."""

import asyncio
import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import tenacity
from prefect.client.schemas.objects import State
from prefect.states import Completed

from bluesky_prefect.core import (
    UNREADABLE_URL,
    URL_SPELLING,
    ConfigurationError,
    ServiceUnavailable,
    on_daemon_thread,
    one_line,
    parse_url,
)
from bluesky_prefect.flows.common._service_record import QuestionRefused

_UNAVAILABLE = "Unavailable"
_MAX_BYTES = 2**20


class Patience:
    """The waiting for an answer, which whoever has no more use for that may end early."""

    def __init__(self) -> None:
        self.ended = False
        self._limit: asyncio.Timeout | None = None

    def end(self) -> None:
        """Wait no longer."""
        self.ended = True
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0.0)

    @contextmanager
    def within(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Wait in the block, which `limit` bounds."""
        self._limit = limit
        if self.ended:
            self.end()
        try:
            yield
        finally:
            self._limit = None


async def get_json(
    url: str, params: dict[str, Any] | None = None, *, timeout_s: float, patience: Patience | None = None
) -> Any:
    """Get a JSON document from an outside service; refused connections and server errors are tried again twice.

    Parameters
    ----------
    url : str
        Address without a query.
    params : dict, optional
        The query.
    timeout_s : float
        All the time the answer may take, in seconds: name look-up, retries and download included.
    patience : Patience, optional
        Ends the waiting earlier.

    Raises
    ------
    QuestionRefused
        If the service says why it does not answer.
    ServiceUnavailable
        If there is no answer in time, the service refuses, or the answer is not JSON.
    """
    try:
        service = parse_url(url).hostname or UNREADABLE_URL
    except ConfigurationError:
        raise ServiceUnavailable(f"A service's address is {UNREADABLE_URL}: {URL_SPELLING}") from None
    try:
        async with asyncio.timeout(timeout_s) as limit:
            with (patience or Patience()).within(limit):
                return await _get(url, params)
    except TimeoutError:
        reason = "no answer in time" if patience and patience.ended else f"no answer within {timeout_s:g} s"
    except QuestionRefused as error:
        raise QuestionRefused(f"{service}: {one_line(str(error), 300)}") from None
    except (ServiceUnavailable, httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        reason = _reason(error)
    raise ServiceUnavailable(f"{service}: {one_line(reason, 300)}")


def unavailable(reason: str) -> State[Any]:
    """Return the state of a flow or task that got no answer, and is not expected to have one in a closed network.

    Not a failed one: of that, Prefect would write errors into the log of every run, and count it on its dashboard.
    """
    return Completed(name=_UNAVAILABLE, message=reason)


def is_unavailable(state: State[Any]) -> bool:
    """Say whether a flow or task ended in the state `unavailable`."""
    return state.name == _UNAVAILABLE


class _ServerTrouble(ServiceUnavailable):
    """The service has a problem that may pass."""


@tenacity.retry(
    retry=tenacity.retry_if_exception_type((httpx.TransportError, OSError, _ServerTrouble)),
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_exponential(0.1),
    reraise=True,
)
async def _get(url: str, params: dict[str, Any] | None) -> Any:
    body = bytearray()
    async with (
        httpx.AsyncClient(timeout=None, follow_redirects=True) as client,  # noqa: S113 - the caller's is for all of it
        client.stream("GET", url, params=params, extensions={"trace": _look_up_first}) as response,
    ):
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MAX_BYTES:
                raise ServiceUnavailable(f"the answer is longer than {_MAX_BYTES} bytes")
    return _document(response, body)


def _document(response: httpx.Response, body: bytearray) -> Any:
    status = f"HTTP status {response.status_code}"
    if response.is_server_error or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise _ServerTrouble(status)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ServiceUnavailable("the answer is not JSON" if response.is_success else status) from error
    if not response.is_success:
        # Open-Meteo's explanation of a refusal.
        stated = document.get("reason") if isinstance(document, dict) else None
        raise QuestionRefused(f"{status} ({stated})") if stated else ServiceUnavailable(status)
    return document


async def _look_up_first(event: str, info: dict[str, Any]) -> None:
    """Replace the name that httpcore is about to connect to by its address.

    Nothing cancels a look-up, and asyncio makes it in a pool whose threads the flow run would wait for at its end.
    """
    if event == "connection.connect_tcp.started":
        look_up = on_daemon_thread(socket.getaddrinfo, info["host"], info["port"], type=socket.SOCK_STREAM)
        # IPv4 first: of several addresses one is tried, and IPv6 leads nowhere in some networks.
        info["host"] = min(await asyncio.wrap_future(look_up), key=lambda one: one[0] != socket.AF_INET)[4][0]


def _reason(error: Exception) -> str:
    """Return an error's message; of a refused connection the system's, which the client hides."""
    cause: BaseException | None = error if isinstance(error, httpx.ConnectError) else None
    while cause is not None and not isinstance(cause, ConnectionRefusedError):
        cause = cause.__cause__ or cause.__context__
    return os.strerror(errno.ECONNREFUSED) if cause else str(error) or type(error).__name__
