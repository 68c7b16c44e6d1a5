"""The deployments that a session's workflows name, looked up in Prefect when the session starts."""

import logging
from collections.abc import Iterable
from typing import Any

from bluesky_prefect.core import (
    Workflow,
    did_you_mean,
    error_line,
    on_daemon_thread,
    prefect_authorization,
    prefect_url,
    without_user,
)
from bluesky_prefect.prefect_api import named_deployments
from bluesky_prefect.stack import request_json

logger = logging.getLogger(__name__)

# Nobody waits longer for this.
_TIMEOUT_S = 1.0


def missing_deployments(workflows: Iterable[Workflow]) -> list[str]:
    """Return a line about each workflow whose deployment Prefect does not know; nothing where it cannot be asked."""
    try:
        known = on_daemon_thread(_known).result(_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - the first run's submission will tell
        logger.debug("The names of deployments were not looked up: %s", error_line(error))
        return []
    missing = dict.fromkeys(one.deployment for one in workflows if one.deployment not in known)
    return [f"Prefect has no deployment {name!r}: runs wait for it.{did_you_mean(name, known)}" for name in missing]


def _known() -> list[str]:
    url, authorization = prefect_url(), prefect_authorization()
    headers = {"Authorization": authorization} if authorization else {}

    def ask(path: str, body: dict[str, Any]) -> Any:
        return request_json(without_user(url) + path, body=body, headers=headers, timeout_s=_TIMEOUT_S)

    return list(named_deployments(ask))
