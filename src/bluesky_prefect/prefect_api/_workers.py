"""The workers of work pools, and whether the one that took a flow run is gone."""

from functools import cached_property
from typing import TYPE_CHECKING

from bluesky_prefect.prefect_api._api_errors import prefect_errors
from bluesky_prefect.prefect_api._client import PrefectApi
from bluesky_prefect.prefect_api._flow_runs import PastFlowRun

if TYPE_CHECKING:
    from prefect.client.schemas.objects import Worker

# Work pools whose flow runs are processes that their worker starts. Those of others (a container's image that is being
# pulled, a job in a queue) begin whether their worker lives or not.
_OF_PROCESSES = {"process", "warm-process"}


class _Pool:
    """A work pool as Prefect has it, asked for once."""

    def __init__(self, api: PrefectApi, name: str) -> None:
        self._api = api
        self._name = name

    @cached_property
    def starts_processes(self) -> bool:
        from prefect.exceptions import ObjectNotFound

        try:
            with prefect_errors():
                return self._api.client.read_work_pool(self._name).type in _OF_PROCESSES
        except ObjectNotFound:
            return False

    @cached_property
    def online(self) -> "list[Worker]":
        with prefect_errors():
            workers = self._api.client.read_workers_for_work_pool(self._name)
        return [one for one in workers if one.status.value == "ONLINE"]


class Workers:
    """The workers of all work pools, each pool asked for once. The errors of `api` are those of all methods here."""

    def __init__(self, api: PrefectApi) -> None:
        self._api = api
        self._pools: dict[str, _Pool] = {}

    def have_lost(self, flow_run: PastFlowRun) -> bool:
        """Tell whether the worker that made a flow run pending is gone, and its process with it.

        False where nobody can know: then its process may still come up.
        """
        if flow_run.work_pool is None:
            return False
        pool = self._pools.setdefault(flow_run.work_pool, _Pool(self._api, flow_run.work_pool))
        return pool.starts_processes and not any(_may_have_taken(worker, flow_run) for worker in pool.online)


def _may_have_taken(worker: "Worker", flow_run: PastFlowRun) -> bool:
    was_there = worker.created is None or worker.created.timestamp() <= flow_run.changed
    return was_there and flow_run.worker in (None, worker.name)
