"""Small requests to the stack's own servers, without the cost of importing their clients."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from bluesky_prefect.core import StackError

# A proxy set in the environment has no business with this machine's own servers.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def request_json(
    url: str,
    *,
    body: Any = None,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 5.0,
) -> Any:
    """Send a request, with a JSON body if given, and return the JSON answer.

    Raises
    ------
    StackError
        If there is no answer, or one that is an error.
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
        reason = getattr(error, "reason", error)
        raise StackError(f"{url} does not answer: {reason}") from error
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
