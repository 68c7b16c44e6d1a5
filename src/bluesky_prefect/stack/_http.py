"""Small requests to the servers of the stack and of a session, without the cost of importing their clients."""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, InvalidURL
from typing import Any

from bluesky_prefect.core import (
    REFUSED_STATUSES,
    URL_SPELLING,
    ConfigurationError,
    StackError,
    basic_auth,
    on_daemon_thread,
    user_in_url,
    without_secrets,
    without_user,
)

logger = logging.getLogger(__name__)

# What a part that is not there may cost the start of a session, and of a run: scientists do not wait for it.
PROBE_TIMEOUT_S = 1.0
# How long somebody who has asked for something waits for a server that is busy.
PATIENCE_S = 10.0

# A proxy set in the environment has no business with this machine's own servers.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Answer:
    """A server's answer: the problem with it, empty if there is none, whether it refuses us, and its time.

    That is in seconds since the epoch, to the second; None if the answer does not tell.
    """

    problem: str = ""
    refused: bool = False
    server_time: float | None = None


def request_json(
    url: str,
    *,
    body: Any = None,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 5.0,
) -> Any:
    """Send a request, with a JSON body if given, and return the JSON answer.

    Raises `StackError` if there is no answer, or one that is an error.
    """
    request = urllib.request.Request(  # noqa: S310  # the addresses are the stack's own
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **(headers or {})},
        method=method,
    )
    try:
        with _opener.open(request, timeout=timeout_s) as answer:
            content = answer.read()
    except urllib.error.HTTPError as error:
        detail = error.read(500).decode(errors="replace")
        raise StackError(f"{url} answered {error.code}: {detail}") from error
    except (OSError, HTTPException) as error:
        raise StackError(f"{url} does not answer: {_reason(error)}") from error
    try:
        return json.loads(content) if content else None
    except ValueError as error:
        raise StackError(f"{url} answered something else than JSON") from error


def answers(url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 2.0) -> bool:
    """Tell whether a GET of this address succeeds."""
    try:
        request_json(url, headers=headers, timeout_s=timeout_s)
    except StackError:
        return False
    return True


def probe(url: str, timeout_s: float = PROBE_TIMEOUT_S, *, authorization: str = "", patience_s: float = 0.0) -> Answer:
    """Ask at `url` for anything, as the user that the address or `authorization` (a header) names.

    Takes no longer than `timeout_s`, also where name look-ups hang. A server that has said nothing by then is asked
    once more with `patience_s`, if that is longer, and a line says so. Any answer below 500 counts: a server that
    refuses an unknown client is there.
    """
    try:
        return on_daemon_thread(_probe, url, timeout_s, authorization).result(timeout_s)
    except TimeoutError:
        if patience_s <= timeout_s:
            return Answer(f"no answer in {timeout_s:g} s")
    logger.warning("No answer yet at %s; waiting for it, %g s at most ...", without_secrets(url), patience_s)
    return probe(url, patience_s, authorization=authorization)


def _probe(url: str, timeout_s: float, authorization: str) -> Answer:
    try:
        user = authorization or (basic_auth(user_in_url(url)) if user_in_url(url) else "")
        # Without the user, whom urllib would take for a part of the host's name.
        request = urllib.request.Request(without_user(url))  # noqa: S310 - the settings name it
        if user:
            request.add_unredirected_header("Authorization", user)
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            return Answer(server_time=_time_in(answer.headers))
    except urllib.error.HTTPError as error:
        problem = f"answers {error.code}" if error.code >= 500 else ""
        return Answer(problem, error.code in REFUSED_STATUSES, _time_in(error.headers))
    except (ConfigurationError, ValueError, InvalidURL):  # the latter two repeat what they cannot read
        return Answer(URL_SPELLING)
    except (OSError, HTTPException) as error:
        if isinstance(getattr(error, "reason", error), TimeoutError):
            raise TimeoutError from error
        return Answer(_reason(error))


def _time_in(headers: Message) -> float | None:
    try:
        return parsedate_to_datetime(headers["Date"] or "").timestamp()
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason)
