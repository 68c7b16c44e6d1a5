"""Deployments and work pools as Prefect has them, and the version of its server."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bluesky_prefect.prefect_api._api_errors import prefect_errors

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from bluesky_prefect.prefect_api._client import PrefectApi

Ask = Callable[[str, dict[str, Any]], list[dict[str, Any]]]

_BEAMLINE = "beamline:"
# Prefect's own limit for one answer.
_PAGE = 200
# No server has more; one that does not know of offsets would go on for ever.
_MOST = 100 * _PAGE


@dataclass(frozen=True)
class KnownDeployment:
    """A deployment that Prefect has.

    Attributes
    ----------
    name : str
        Its full name, ``flow/deployment``.
    work_pool : str or None
        Where its flow runs wait for a worker; None where the process that serves it executes them.
    paused : bool
        Whether its schedules are paused.
    """

    name: str
    work_pool: str | None
    paused: bool


@dataclass(frozen=True)
class KnownPool:
    """A work pool that Prefect has.

    Attributes
    ----------
    name, type : str
        Prefect's own.
    paused : bool
        Whether nobody is given its flow runs.
    online, silent : tuple of str
        Workers that live, and those that gave no sign of life lately.
    """

    name: str
    type: str
    paused: bool
    online: tuple[str, ...]
    silent: tuple[str, ...]


def server_version(api: "PrefectApi") -> str:
    """Return the version of Prefect's server, which tells it to those only whom it lets in.

    Raises `PrefectUnavailable` if it cannot be asked, or refuses the credentials; so do the other functions here.
    """
    with prefect_errors():
        return api.client.api_version()


def named_deployments(ask: Ask) -> dict[str, dict[str, Any]]:
    """Return all deployments, as the API describes them, by their full names: ``flow-name/deployment-name``.

    For a session as well, which does not import Prefect for it. The errors of `ask` are those of this function.

    Parameters
    ----------
    ask : callable
        Posts a body to a path of the API (``/flows/filter``) and returns what the JSON answer holds.
    """
    flows = {flow["id"]: flow["name"] for flow in _all(ask, "/flows/filter")}
    return {f"{flows.get(one['flow_id'], '?')}/{one['name']}": one for one in _all(ask, "/deployments/filter")}


def ask_with(client: "SyncPrefectClient") -> Ask:
    """Return what asks through Prefect's client, for `named_deployments`."""

    def ask(path: Any, body: dict[str, Any]) -> Any:
        return client.request("POST", path, json=body).json()

    return ask


def known_deployments(api: "PrefectApi") -> dict[str, KnownDeployment]:
    """Return all deployments by their full names."""
    with prefect_errors():
        found = named_deployments(ask_with(api.client))
    return {name: KnownDeployment(name, one["work_pool_name"], bool(one["paused"])) for name, one in found.items()}


def known_beamlines(api: "PrefectApi") -> list[str]:
    """Return the beamlines that have deployments, in order of their names."""
    with prefect_errors():
        tags = {tag for one in _all(ask_with(api.client), "/deployments/filter") for tag in one["tags"]}
    return sorted(tag.removeprefix(_BEAMLINE) for tag in tags if tag.startswith(_BEAMLINE))


def known_pools(api: "PrefectApi", names: Iterable[str]) -> dict[str, KnownPool | None]:
    """Return the work pools of these names, with their workers; None for one that Prefect does not have."""
    return {name: _pool(api, name) for name in names}


def _pool(api: "PrefectApi", name: str) -> KnownPool | None:
    from prefect.exceptions import ObjectNotFound

    try:
        with prefect_errors():
            pool = api.client.read_work_pool(name)
            workers = api.client.read_workers_for_work_pool(name)
    except ObjectNotFound:
        return None
    lives = {worker.name: worker.status.value == "ONLINE" for worker in workers}
    online, silent = (tuple(name for name, is_online in lives.items() if is_online is state) for state in (True, False))
    return KnownPool(pool.name, pool.type, pool.is_paused, online, silent)


def _all(ask: Ask, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(page := ask(path, {"limit": _PAGE, "offset": len(found)})) == _PAGE and len(found) < _MOST:
        found += page
    return found + page
