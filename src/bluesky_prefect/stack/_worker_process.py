"""The worker process itself: deploys, then executes flow runs.

One process does both, because each further one would pay for importing Prefect again.
"""

import asyncio
import shlex
import sys
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import anyio
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.settings import get_current_settings
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessWorker

from bluesky_prefect.core import BlueskyPrefectError, Settings, StackError, get_settings
from bluesky_prefect.flows import data_validation, find_peak, my_workflow
from bluesky_prefect.prefect_api import deploy, prepare_queues
from bluesky_prefect.reconciliation import LIST_PARAMETER, note_list, reconcile
from bluesky_prefect.stack._http import answers
from bluesky_prefect.stack._info import STACK_WORKFLOWS
from bluesky_prefect.stack._ports import hold_port
from bluesky_prefect.stack._worker import DEPLOYMENT
from bluesky_prefect.worker import WarmProcessWorker, bound_control_log, cancelled_by_sigterm, quiet_outages

WORKERS: dict[str, type[BaseWorker[Any, Any, Any]]] = {
    worker.type: worker for worker in (WarmProcessWorker, ProcessWorker)
}


async def set_up(settings: Settings) -> None:
    """Make the work pool and the deployment, or bring those that exist up to date."""
    worker = WORKERS[settings.worker_type]
    async with get_client() as client:
        template = worker.get_default_base_job_template()
        # One that another type was made for keeps that in its name, which is harmless: the template is what counts.
        pool = WorkPoolCreate(name=settings.work_pool, type=worker.type, base_job_template=template)
        await client.create_work_pool(pool, overwrite=True)
        # 'down' pauses the pool while it waits for the last flow runs.
        await client.update_work_pool(settings.work_pool, WorkPoolUpdate(is_paused=False))
    await prepare_queues(settings.work_pool)
    name, job_variables = DEPLOYMENT.partition("/")[2], None
    if settings.worker_type == "process":
        # Stated, the command spares each flow run a supervisor process that prepares a workspace and imports Prefect.
        job_variables = {"command": shlex.join([sys.executable, "-m", "prefect.engine"])}
    deployed = await deploy(my_workflow, name, settings.work_pool, job_variables=job_variables)
    if deployed != DEPLOYMENT:
        raise StackError(f"The deployment is called {deployed!r}; {DEPLOYMENT!r} is promised.")
    for flow in (data_validation, find_peak):
        await deploy(flow, name, settings.work_pool, job_variables=job_variables)
    every_s = settings.reconcile_every_s
    listed_at = settings.workflows or STACK_WORKFLOWS
    options = {"job_variables": job_variables, "every_s": every_s, "parameters": {LIST_PARAMETER: listed_at}}
    await deploy(reconcile, name, settings.work_pool, **options)
    with suppress(BlueskyPrefectError):  # told by the first reconcile, which notes it too
        await anyio.to_thread.run_sync(note_list, listed_at, settings.request_timeout_s)


async def work(worker_name: str, settings: Settings) -> None:
    """Wait for the server, deploy, then execute flow runs until it is cancelled."""
    api_url = get_current_settings().api.url
    while not await anyio.to_thread.run_sync(answers, f"{api_url}/health"):
        await anyio.sleep(0.2)
    await set_up(settings)
    make_worker = WORKERS[settings.worker_type]
    worker = make_worker(work_pool_name=settings.work_pool, name=worker_name, limit=settings.worker_limit)
    with cancelled_by_sigterm():  # Prefect's own types of worker leave that to its command
        await worker.start()


def main(worker_name: str) -> None:
    """Run the worker process."""
    bound_control_log()
    quiet_outages()
    settings = get_settings()
    for url in (get_current_settings().api.url, settings.tiled_uri):
        hold_port(urlsplit(url or "").port or 0)
    try:
        anyio.run(work, worker_name, settings)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Worker stopped.")  # noqa: T201  # goes to the worker's log


if __name__ == "__main__":
    main(sys.argv[1])
