"""The deployments that Prefect knows, by name."""

from collections.abc import Callable
from typing import Any

# Prefect's own limit for one answer.
_PAGE = 200


def deployment_names(ask: Callable[[str, dict[str, Any]], list[dict[str, Any]]]) -> list[str]:
    """Return the full names of all deployments, as ``flow-name/deployment-name``.

    Parameters
    ----------
    ask : callable
        Posts a body to a path of the API (``/flows/filter``) and returns what the JSON answer holds; its errors are
        those of this function.
    """
    flows = {flow["id"]: flow["name"] for flow in _all(ask, "/flows/filter")}
    return [f"{flows.get(one['flow_id'], '')}/{one['name']}" for one in _all(ask, "/deployments/filter")]


def _all(ask: Callable[[str, dict[str, Any]], list[dict[str, Any]]], path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(page := ask(path, {"limit": _PAGE, "offset": len(found)})) == _PAGE:
        found += page
    return found + page
