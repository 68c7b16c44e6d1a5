"""Answers of Prefect's API that refuse, and outages: what they tell."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import (
    PREFECT_KEY,
    REFUSED_STATUSES,
    UNREADABLE_URL,
    URL_SPELLING,
    ConfigurationError,
    PrefectUnavailable,
    did_you_mean,
    one_line,
    parse_url,
    without_secrets,
)

if TYPE_CHECKING:
    import httpx

NO_API = (
    "No Prefect API is configured. Set PREFECT_API_URL, for example with "
    "'prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api'."
)
_BUSY = {408, 425, 429, 503}
TO_BE_ASKED_LATER = {*_BUSY, 502, 504}
# By these Prefect refuses what it was asked, and says why in JSON. Two of them count that come from a proxy, too.
_REFUSALS = {400, 409, 422, 404, 413}
_OF_A_PROXY = {404, 413}


@contextmanager
def prefect_errors() -> Iterator[None]:
    """Turn an outage, met while Prefect's client is used, into an error that says what to do.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked, or cannot answer now. An answer that refuses what was asked is left as it is.
    """
    import httpx
    import pydantic

    try:
        yield
    except httpx.InvalidURL:
        raise _unreadable() from None  # it repeats a part of the address
    except httpx.HTTPStatusError as error:
        outage = _outage(error)
        if outage is None:
            raise
        raise outage from error
    except httpx.HTTPError as error:
        raise PrefectUnavailable(f"Prefect at {current_api_url()} cannot be reached: {_name(error)}.") from error
    except (pydantic.ValidationError, ValueError) as error:
        raise PrefectUnavailable(
            f"{current_api_url()} does not answer as a Prefect API does ({_name(error)}). "
            "Check PREFECT_API_URL: it ends in /api.",
            transient=False,
        ) from error


def require_readable(url: str) -> None:
    """Refuse an address of Prefect that cannot be read."""
    try:
        _ = url and parse_url(url)
    except ConfigurationError:
        raise _unreadable() from None


def _unreadable() -> PrefectUnavailable:
    return PrefectUnavailable(f"PREFECT_API_URL holds {UNREADABLE_URL}: {URL_SPELLING}.", transient=False)


def raise_if_to_be_asked_later(response: "httpx.Response") -> None:
    """Raise the answer of a server that is busy."""
    if response.status_code in TO_BE_ASKED_LATER:
        response.read()
        response.raise_for_status()


def current_api_url() -> str | None:
    """Return the address of the API without secrets; None if none is set."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    return without_secrets(url) if url else None


def explain_missing(deployment: str, known: Iterable[str] = ()) -> str:
    """Say how to make a deployment that Prefect does not know, or which of those that it knows may be meant."""
    flow, _, name = deployment.partition("/")
    return (
        f"Prefect at {current_api_url()} has no deployment {deployment!r}.{did_you_mean(deployment, known)} Create it: "
        f"'bluesky-prefect deploy FILE.py:FUNCTION --name {name}' deploys the flow {flow!r} from its file; the "
        "submissions wait for it."
    )


def _name(error: Exception) -> str:
    first_line = one_line(str(error).strip().partition("\n")[0])
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _outage(error: Any) -> PrefectUnavailable | None:
    """Return what an error status tells of Prefect, or None if it tells of what was asked."""
    status = error.response.status_code
    if status in REFUSED_STATUSES:
        return PrefectUnavailable(
            f"Prefect at {current_api_url()} refuses the credentials ({status}). Check {PREFECT_KEY}.",
            transient=False,
        )
    if status in TO_BE_ASKED_LATER or status >= 500:
        return PrefectUnavailable(
            f"Prefect at {current_api_url()} answers {status}: {said(error)}",
            retry_after_s=_retry_after_s(error.response.headers.get("retry-after")),
            server_responded=True,
            busy=status in _BUSY,
        )
    if status not in _REFUSALS or (status not in _OF_A_PROXY and not _is_prefects(error.response)):
        return PrefectUnavailable(
            f"Prefect at {current_api_url()} answers {status}, which tells nothing of what was asked: {said(error)}. "
            "Check PREFECT_API_URL, and what is between (a proxy, a redirection).",
            transient=False,
            server_responded=True,
        )
    return None


def _is_prefects(response: "httpx.Response") -> bool:
    try:
        return isinstance(response.json(), dict)
    except ValueError:
        return False


def said(error: Any) -> str:
    """Return the text of an answer that refuses, on one line."""
    return one_line(error.response.text.strip())


def _retry_after_s(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None  # an HTTP date: the usual back-off serves
