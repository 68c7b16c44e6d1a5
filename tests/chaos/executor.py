"""Executes flow runs in a warm process, one after the other: the stock worker starts an interpreter for each.

What it executes is the flow as it is, on flow runs as Prefect has them. Several may run at once: who gets a flow run
from Scheduled to Pending has it.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Abort, ObjectNotFound, PrefectException
from prefect.flow_engine import run_flow_async
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Pending

from bluesky_prefect.flows import my_workflow
from bluesky_prefect.stack import DEPLOYMENT
from tests.chaos.processes import PAUSED

logger = logging.getLogger(__name__)
_POLL_S = 0.5


class Executor:
    """Takes the oldest scheduled flow runs of the deployment and runs them.

    Parameters
    ----------
    directory : Path
        While it holds a file ``paused``, nothing new is taken; while it holds one that is named by this process's id,
        this process is at work.
    """

    def __init__(self, client: SyncPrefectClient, directory: Path) -> None:
        self._client = client
        self._paused = directory / PAUSED
        self._busy = directory / str(os.getpid())
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        self._deployment = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))

    def step(self) -> bool:
        """Execute one flow run; return False if there is none to execute."""
        with self._at_work():
            for flow_run in [] if self._paused.exists() else self._scheduled():
                if self._claim(flow_run):
                    run = run_flow_async(
                        my_workflow,
                        flow_run=self._client.read_flow_run(flow_run.id),
                        parameters=flow_run.parameters,
                        return_type="state",
                    )
                    asyncio.run(run)
                    return True
        return False

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._busy.touch()
        try:
            yield
        finally:
            self._busy.unlink()

    def _scheduled(self) -> list[FlowRun]:
        due = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}})
        return self._client.read_flow_runs(
            flow_run_filter=due,
            deployment_filter=self._deployment,
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=5,
        )

    def _claim(self, flow_run: FlowRun) -> bool:
        answer = self._client.set_flow_run_state(flow_run.id, Pending())
        return answer.status.value == "ACCEPT"


def main(directory: Path) -> None:
    # Heartbeats are 30 s apart at least: the campaign's reconciliation, which is impatient, would miss the next one.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), get_client(sync_client=True) as client:
        executor: Executor | None = None
        while True:
            try:
                executor = executor or Executor(client, directory)
                worked = executor.step()
            # Prefect is away, or has forgotten the flow run: faults that a campaign injects.
            except (httpx.HTTPError, ObjectNotFound, Abort, PrefectException, OSError, RuntimeError) as error:
                logger.warning("A flow run was left: %s: %s", type(error).__name__, error)
                worked = False
            if not worked:
                time.sleep(_POLL_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
