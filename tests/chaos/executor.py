"""Executes flow runs in a warm process, one after the other: the stock worker starts an interpreter for each.

What it executes is the flow as it is, on flow runs as Prefect has them. Several may run at once: who gets a flow run
from Scheduled to Pending has it.
"""

import logging
import sys
import time
from pathlib import Path

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Abort, ObjectNotFound, PrefectException
from prefect.flow_engine import run_flow
from prefect.states import Pending

from bluesky_prefect.flows import my_workflow
from bluesky_prefect.stack.worker import DEPLOYMENT

logger = logging.getLogger(__name__)
_POLL_S = 0.2


class Executor:
    """Takes the oldest scheduled flow runs of the deployment and runs them.

    Parameters
    ----------
    paused : Path
        While this file exists, nothing new is taken.
    """

    def __init__(self, client: SyncPrefectClient, paused: Path) -> None:
        self._client = client
        self._paused = paused
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        self._deployment = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))

    def step(self) -> bool:
        """Execute one flow run; return False if there is none to execute."""
        if self._paused.exists():
            return False
        for flow_run in self._scheduled():
            if self._claim(flow_run):
                run_flow(
                    my_workflow,
                    flow_run=self._client.read_flow_run(flow_run.id),
                    parameters=flow_run.parameters,
                    return_type="state",
                )
                return True
        return False

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


def main(paused: Path) -> None:
    with get_client(sync_client=True) as client:
        executor: Executor | None = None
        while True:
            try:
                executor = executor or Executor(client, paused)
                worked = executor.step()
            # Prefect is away, or has forgotten the flow run: faults that a campaign injects.
            except (httpx.HTTPError, ObjectNotFound, Abort, PrefectException, OSError, RuntimeError) as error:
                logger.warning("A flow run was left: %s: %s", type(error).__name__, error)
                worked = False
            if not worked:
                time.sleep(_POLL_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
