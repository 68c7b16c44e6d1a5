"""Deployments and work pools as Prefect has them, and the version of its server."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bluesky_prefect.prefect_api._api_errors import prefect_errors

if TYPE_CHECKING:
    from bluesky_prefect.prefect_api._client import PrefectApi

_PAGE = 200


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


def known_deployments(api: "PrefectApi") -> dict[str, KnownDeployment]:
    """Return all deployments by their full names."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterId

    client, found = api.client, []
    with prefect_errors():
        while not found or len(found) % _PAGE == 0:
            page = client.read_deployments(limit=_PAGE, offset=len(found))
            found += page
            if not page:
                break
        flows: dict[object, str] = {}
        ids = list({one.flow_id for one in found})
        for begin in range(0, len(ids), _PAGE):
            wanted = FlowFilter(id=FlowFilterId(any_=ids[begin : begin + _PAGE]))
            flows |= {flow.id: flow.name for flow in client.read_flows(flow_filter=wanted, limit=_PAGE)}
    named = ((f"{flows.get(one.flow_id, '?')}/{one.name}", one) for one in found)
    return {name: KnownDeployment(name, one.work_pool_name, bool(one.paused)) for name, one in named}


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
