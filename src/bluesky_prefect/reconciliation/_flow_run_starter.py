"""Starting a workflow on a run that Tiled holds."""

import logging
from collections.abc import Mapping
from typing import Any

from bluesky_prefect.core import (
    ConfigurationError,
    OutboxError,
    Run,
    Submission,
    Workflow,
    error_line,
    jsonable,
    submission_key,
)
from bluesky_prefect.outbox import Outbox
from bluesky_prefect.prefect_api import FlowRunRef, PrefectApi

logger = logging.getLogger(__name__)


class FlowRunOverlooked(Exception):
    """Prefect already had the flow run that was to be made, and the look-up by time has missed it.

    A clock was wrong when it was made. With it the case has to be diagnosed anew; a look-up from `since_s` on, in
    seconds since the epoch, finds it.
    """

    def __init__(self, flow_run: FlowRunRef) -> None:
        super().__init__(f"Prefect had {flow_run.name} ({flow_run.id}) before.")
        self.since_s = flow_run.expected_start_s


class FlowRunStarter:
    """Starts workflows on runs that Tiled holds, with the keys that the callback uses.

    It asks Prefect itself: somebody is there who sees whether it went well, and doing it again does no harm. An
    outbox of this machine, if there is one, is told. The flow runs are of a beamline, if that has a name.
    """

    def __init__(self, api: PrefectApi, outbox: Outbox | None, *, beamline: str | None = None) -> None:
        self._api = api
        self._beamline = beamline
        self._outbox = outbox

    def start(
        self,
        run: Run,
        workflow: Workflow,
        generation: int,
        *,
        parameters: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        live: bool = False,
    ) -> FlowRunRef:
        """Make the flow run of one generation of a workflow on a run, or find it, if somebody was a moment faster.

        The run has stopped, and the workflow is under the name that the flow run is to have. What it is started with is
        the workflow's own, unless `parameters` are given; `overrides` win over both. It
        waits for a worker behind the runs that have just ended, unless it is `live`.

        Raises
        ------
        FlowRunOverlooked
            If the flow run is not new.
        ConfigurationError
            If the workflow's own ``parameters=`` fails.
        DeploymentMissing, SubmissionRefused, PrefectUnavailable
            See `PrefectApi.create_flow_run`.
        """
        submission = Submission(
            key=submission_key(run.uid, workflow.name, generation),
            workflow=workflow.name,
            deployment=workflow.deployment,
            run_uid=run.uid,
            start=jsonable(run.start),
            stop=jsonable(run.stop),
            parameters=_parameters(run, workflow) if parameters is None else parameters,
            overrides=overrides or {},
            generation=generation,
            notify=workflow.notices,
            beamline=self._beamline,
        )
        flow_run = self._api.create_flow_run(submission, live=live)
        self._tell_outbox(submission, flow_run)
        if not flow_run.is_new:
            raise FlowRunOverlooked(flow_run)
        return flow_run

    def _tell_outbox(self, submission: Submission, flow_run: FlowRunRef) -> None:
        if self._outbox is None:
            return
        try:
            # What waits for another server is that one's.
            self._outbox.mark_sent(submission.key, flow_run.id, flow_run.name, api_url=self._api.api_url)
        except OutboxError as error:
            # Its forwarder will ask Prefect for the same key, and find the same flow run.
            logger.warning("Run %s was started, and the outbox does not know: %s", submission.run_uid, error)


def _parameters(run: Run, workflow: Workflow) -> Mapping[str, Any] | None:
    try:
        return workflow.parameters_for(run)
    except Exception as error:
        raise ConfigurationError(
            f"parameters= of workflow {workflow.name!r} failed for run {run.uid}: {error_line(error)}. "
            "Fix it in the list of workflows."
        ) from error
