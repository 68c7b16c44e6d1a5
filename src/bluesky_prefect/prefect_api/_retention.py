"""The time for which Prefect's server keeps flow runs that have ended."""

from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import BlueskyPrefectError, one_line
from bluesky_prefect.prefect_api._api_errors import current_api_url, prefect_errors

if TYPE_CHECKING:
    from bluesky_prefect.prefect_api._client import PrefectApi

_FLOW_RUNS = "flow_runs"
# Prefect Cloud has no such route, and a proxy may keep it from clients.
_NOT_TOLD = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}


class RetentionUnknown(BlueskyPrefectError):
    """A Prefect server that is well otherwise cannot tell how long it keeps flow runs."""


def flow_runs_kept_s(api: "PrefectApi") -> float | None:
    """Return how long after their end the server's vacuum deletes flow runs, in seconds; None if it tells of none.

    What the server says are its settings of today, and those of the process that is asked. It knows of no other
    program that deletes flow runs.

    Raises
    ------
    RetentionUnknown
        If the server fails at this question.
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    import httpx
    from pydantic import TypeAdapter

    with prefect_errors():
        try:
            told = api.client.request("GET", "/admin/settings").json()
        except httpx.HTTPStatusError as error:
            if error.response.status_code in _NOT_TOLD:
                return None
            if error.response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
                raise RetentionUnknown(
                    f"Prefect at {current_api_url()} does not tell how long it keeps flow runs (it answers 500: "
                    f"{one_line(error.response.text.strip(), 100)}). If it deletes some, runs before that seem to have "
                    "had none: say after how many days with BLUESKY_PREFECT_FLOW_RUNS_KEPT_DAYS."
                ) from error
            raise
        vacuum = _at(told, "server", "services", "db_vacuum")
        enabled = _at(vacuum, "enabled")
        # Older servers say only whether it is on.
        if enabled is not True and not (isinstance(enabled, list) and _FLOW_RUNS in enabled):
            return None
        return TypeAdapter(timedelta).validate_python(_at(vacuum, "retention_period")).total_seconds()


def _at(content: Any, *names: str) -> Any:
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content
