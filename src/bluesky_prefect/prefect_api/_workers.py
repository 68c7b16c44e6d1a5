"""The workers of work pools: whether the one that took a flow run is gone, and why a flow run waits."""

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

from bluesky_prefect.prefect_api._api_errors import prefect_errors
from bluesky_prefect.prefect_api._client import PrefectApi
from bluesky_prefect.prefect_api._flow_runs import PastFlowRun
from bluesky_prefect.prefect_api._inventory import ask_with
from bluesky_prefect.prefect_api._work_queues import BACKLOG

if TYPE_CHECKING:
    from prefect.client.schemas.objects import Worker, WorkPool

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
        return self._pool is not None and self._pool.type in _OF_PROCESSES

    @property
    def is_paused(self) -> bool:
        return self._pool is not None and self._pool.is_paused

    @cached_property
    def paused_queues(self) -> set[str]:
        # The client's own read_work_queues is newer than the oldest Prefect here.
        with prefect_errors():
            found = ask_with(self._api.client)(f"/work_pools/{quote(self._name)}/queues/filter", {})
        return {one["name"] for one in found if one["is_paused"]}

    @cached_property
    def _pool(self) -> "WorkPool | None":
        from prefect.exceptions import ObjectNotFound

        with suppress(ObjectNotFound), prefect_errors():
            return self._api.client.read_work_pool(self._name)
        return None

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
        if (pool := self._pool_of(flow_run)) is None:
            return False
        return pool.starts_processes and not any(_may_have_taken(worker, flow_run) for worker in pool.online)

    def reason_to_wait(self, flow_run: PastFlowRun) -> str:
        """Return why a scheduled flow run waits that is not late; "" if there is no such reason.

        It is in the backlog of a pool that has a worker, or somebody has paused its pool or its queue.
        """
        if (pool := self._pool_of(flow_run)) is None:
            return ""
        if pool.is_paused:
            return f"waits in work pool {flow_run.work_pool}, which is paused"
        queue = flow_run.work_queue
        if queue in pool.paused_queues:
            return f"waits in queue {queue} of work pool {flow_run.work_pool}, which is paused"
        return f"waits in queue {queue} of work pool {flow_run.work_pool}" if queue == BACKLOG and pool.online else ""

    def _pool_of(self, flow_run: PastFlowRun) -> _Pool | None:
        if (name := flow_run.work_pool) is None:
            return None
        return self._pools.setdefault(name, _Pool(self._api, name))


def _may_have_taken(worker: "Worker", flow_run: PastFlowRun) -> bool:
    was_there = worker.created is None or worker.created.timestamp() <= flow_run.changed
    return was_there and flow_run.worker in (None, worker.name)
