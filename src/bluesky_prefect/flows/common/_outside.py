"""One question to a service on the internet, which may cost a known time and no more."""

import json
import threading
import time
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from bluesky_prefect.core import (
    UNREADABLE_URL,
    URL_SPELLING,
    ConfigurationError,
    ServiceUnavailable,
    one_line,
    parse_url,
)

_UNAVAILABLE = "Unavailable"
_MAX_BYTES = 2**20
_MAX_TRIES = 3
_FIRST_WAIT_S = 0.1


def get_json(url: str, params: dict[str, Any] | None = None, *, timeout_s: float) -> Any:
    """Get a JSON document from an outside service, within a deadline that holds whatever hangs.

    Refused connections and server errors are tried again for as long as the deadline allows. The request runs in a
    daemon thread, because a name look-up cannot be cancelled: at the deadline the thread is left behind, and it
    does not keep the process from ending.

    Parameters
    ----------
    url : str
        Address without a query.
    params : dict, optional
        The query.
    timeout_s : float
        All the time the answer may take, in seconds: name look-up, retries and download included.

    Returns
    -------
    object
        What the answer holds.

    Raises
    ------
    ServiceUnavailable
        If there is no answer in time, the service refuses, or the answer is not JSON.
    """
    import httpx

    try:
        service = parse_url(url).hostname or UNREADABLE_URL
    except ConfigurationError:
        raise ServiceUnavailable(f"A service's address is {UNREADABLE_URL}: {URL_SPELLING}") from None
    deadline = time.monotonic() + timeout_s
    answer: list[Any] = []
    failure: list[str] = []

    def work() -> None:
        try:
            answer.append(_get_with_retries(url, params or {}, deadline))
        except ServiceUnavailable as error:
            failure.append(str(error))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            failure.append(one_line(str(error) or type(error).__name__, 200))

    thread = threading.Thread(target=work, name=f"ask-{service}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if answer:
        return answer[0]
    why = failure[0] if failure else f"no answer within {timeout_s:g} s"
    raise ServiceUnavailable(f"{service}: {why}")


def unavailable(reason: str) -> State[Any]:
    """Return the state of a task that got no answer, and is not expected to have one in a closed network.

    Not a failed one: of that, Prefect would write two errors into the log of every run.
    """
    return Completed(name=_UNAVAILABLE, message=reason)


def is_unavailable(state: State[Any]) -> bool:
    """Say whether a task ended in the state `unavailable`."""
    return state.name == _UNAVAILABLE


def _get_with_retries(url: str, params: dict[str, Any], deadline: float) -> Any:
    import httpx
    import tenacity

    policy = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((httpx.TransportError, _ServerTrouble)),
        stop=lambda state: state.attempt_number >= _MAX_TRIES or time.monotonic() + _FIRST_WAIT_S >= deadline,
        wait=tenacity.wait_exponential(_FIRST_WAIT_S, max=1.0),
        reraise=True,
    )
    return policy(_get, url, params, deadline)


def _get(url: str, params: dict[str, Any], deadline: float) -> Any:
    import httpx

    left_s = max(deadline - time.monotonic(), 0.01)
    with (
        httpx.Client(timeout=left_s, follow_redirects=True) as client,
        client.stream("GET", url, params=params, headers={"Accept": "application/json"}) as response,
    ):
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > _MAX_BYTES:
                raise ServiceUnavailable(f"the answer is longer than {_MAX_BYTES} bytes")
            if time.monotonic() > deadline:
                raise ServiceUnavailable("the answer came too slowly")
    if response.status_code >= 500 or response.status_code == 429:
        raise _ServerTrouble(f"HTTP status {response.status_code}")
    if not response.is_success:
        raise ServiceUnavailable(f"HTTP status {response.status_code}{_stated_reason(bytes(body))}")
    try:
        return json.loads(body)
    except ValueError as error:
        raise ServiceUnavailable("the answer is not JSON") from error


class _ServerTrouble(ServiceUnavailable):
    """The service has a problem that may pass."""


def _stated_reason(body: bytes) -> str:
    """Open-Meteo explains a refusal in a field named reason."""
    try:
        reason = json.loads(body)["reason"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f" ({one_line(reason, 200)})"
