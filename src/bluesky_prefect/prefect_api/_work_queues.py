"""The two work queues of a work pool: one for runs that have just ended, one for what was kept."""

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bluesky_prefect.prefect_api._api_errors import TO_BE_ASKED_LATER
from bluesky_prefect.prefect_api._inventory import ask_with

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient, SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

logger = logging.getLogger(__name__)

LIVE, BACKLOG = "live", "backlog"
# A deployment that names no queue is in this one, which Prefect makes with each work pool.
_DEFAULT = "default"
# Queues may be made at any time; a burst of runs need not ask for them each time.
_AGE_S = 30.0
_NOTES = {
    LIVE: "Runs that have just ended.",
    BACKLOG: "What was kept through an outage, what is started again, and what 'submit' starts.",
}


class WorkQueues:
    """Tells in which work queue a flow run is to wait for a worker."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[float, bool]] = {}
        self._told: set[str] = set()

    def choose(self, client: "SyncPrefectClient", deployment: "DeploymentResponse", *, live: bool) -> str | None:
        """Return the queue for a flow run; None leaves that to its deployment.

        That is so where somebody has chosen a queue for the deployment, and where its work pool lacks one of the two:
        Prefect would make it, with the lowest priority.
        """
        pool = deployment.work_pool_name
        if not pool or deployment.work_queue_name not in (None, _DEFAULT):
            return None
        read_at, has_both = self._read.get(pool, (0.0, False))
        if not read_at or time.monotonic() - read_at > _AGE_S:
            has_both = self._has_both(client, pool)
            self._read[pool] = time.monotonic(), has_both
        return (LIVE if live else BACKLOG) if has_both else None

    def _has_both(self, client: "SyncPrefectClient", pool: str) -> bool:
        import httpx

        # The client's own read_work_queues is newer than the oldest Prefect here.
        wanted = {"work_queues": {"name": {"any_": [LIVE, BACKLOG]}}}
        try:
            found = ask_with(client)(f"/work_pools/{quote(pool)}/queues/filter", wanted)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in TO_BE_ASKED_LATER:
                raise
            logger.debug("The queues of work pool %s cannot be read: %s", pool, error)
            return False  # the order is no reason not to start it
        missing = {LIVE, BACKLOG} - {one["name"] for one in found}
        if missing and pool not in self._told:
            self._told.add(pool)
            logger.info(
                "Work pool %s has no queue %s: a run that has just ended waits behind all others there. "
                "'bluesky-prefect deploy' makes both.",
                pool,
                " and ".join(sorted(missing)),
            )
        return not missing


async def make_work_queues(client: "PrefectClient", pool: str) -> str:
    """Make those of the two queues that a work pool lacks, and return what it has now, and what keeps it back.

    Prefect's own queue stays between them: what is there goes before the backlog, as `reconcile` does, and as does
    what people start in the UI. A queue that is there stays as it is, whatever somebody has changed of it.
    """
    import httpx

    try:
        found = await _by_name(client, pool)
        # The last first: Prefect moves those behind a new one.
        for name, priority in ((BACKLOG, 1 + max(found.values(), default=0)), (LIVE, 1)):
            if name not in found:
                await _make(client, pool, name, priority)
        found = await _by_name(client, pool)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        return f"The queues of work pool {pool} are left as they are: Prefect refuses them ({status})."
    order = ", ".join(sorted(found, key=lambda name: found[name]))
    told = f"Flow runs that wait on work pool {pool} go in the order of its queues: {order}."
    return " ".join([told, *await _brakes(client, pool)])


async def _brakes(client: "PrefectClient", pool: str) -> list[str]:
    """Return what somebody has paused or limited of a work pool and its queues, and how that is undone."""
    brakes: list[str] = []
    places: list[tuple[str, str, str, Any]] = [
        (f"Work pool {pool}", "work-pool", pool, await client.read_work_pool(pool))
    ]
    for queue in await client.read_work_queues(pool):
        places.append((f"Its queue {queue.name}", "work-queue", f"{queue.name} --pool {pool}", queue))
    for name, kind, named, place in places:
        if place.is_paused:
            brakes.append(f"{name} is paused, and starts nothing until 'prefect {kind} resume {named}'.")
        if place.concurrency_limit is not None:
            brakes.append(
                f"{name} runs {place.concurrency_limit} at once at most, until "
                f"'prefect {kind} clear-concurrency-limit {named}'."
            )
    return brakes


async def _by_name(client: "PrefectClient", pool: str) -> dict[str, int]:
    return {one.name: one.priority for one in await client.read_work_queues(pool)}


async def _make(client: "PrefectClient", pool: str, name: str, priority: int) -> None:
    from prefect.exceptions import ObjectAlreadyExists

    made: dict[str, Any] = {"name": name, "description": _NOTES[name], "priority": priority, "work_pool_name": pool}
    with suppress(ObjectAlreadyExists):  # somebody else was a moment faster
        await client.create_work_queue(**made)
