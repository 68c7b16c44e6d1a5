"""The time for which Prefect's server keeps flow runs that have ended."""

from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from bluesky_prefect.prefect_api._api_errors import prefect_errors

if TYPE_CHECKING:
    from bluesky_prefect.prefect_api._client import PrefectApi

_FLOW_RUNS = "flow_runs"
# Prefect Cloud has no such route, and a proxy may keep it from clients.
_NOT_TOLD = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}


def flow_runs_kept_s(api: "PrefectApi") -> float | None:
    """Return how long after their end the server's vacuum deletes flow runs, in seconds; None if it tells of none.

    What the server says are its settings of today, and those of the process that is asked. It knows of no other
    program that deletes flow runs.

    Raises
    ------
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
