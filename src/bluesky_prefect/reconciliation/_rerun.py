"""Rules for starting flow runs again: those of a workflow, and of its flow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bluesky_prefect.core import DO_NOT_RERUN, NOT_TO_BE_RERUN, Settings, Workflow
from bluesky_prefect.prefect_api import PastFlowRun
from bluesky_prefect.reconciliation._diagnosis import Diagnosis


def settings_of(workflow: Workflow, settings: Settings) -> Settings:
    """Return the settings with what the workflow says about its reruns in place of the defaults."""
    said: dict[str, Any] = {}
    if workflow.rerun is not None:
        said["rerun_failed"] = workflow.rerun == "failed"
    if workflow.max_reruns is not None:
        said["max_reruns"] = workflow.max_reruns
    return settings.model_copy(update=said)


def permitted(diagnosis: Diagnosis, flow_runs: Sequence[PastFlowRun], workflow: Workflow) -> Diagnosis:
    """Return the diagnosis, without a next flow run where the workflow or its flow does not allow any by itself."""
    if not flow_runs or diagnosis.next_generation is None:
        return diagnosis
    if must_not_rerun(flow_runs[-1]):
        reason = f"it says that it must not be started again: {diagnosis.reason}"
    elif workflow.rerun == "never":
        reason = f"rerun='never': {diagnosis.reason}"
    else:
        return diagnosis
    return replace(diagnosis, reason=reason, next_generation=None)


def must_not_rerun(flow_run: PastFlowRun) -> bool:
    """Tell whether a flow said of itself that it must not be started again: by its state's name, or by `DoNotRerun`."""
    return flow_run.failed and (flow_run.state == DO_NOT_RERUN or NOT_TO_BE_RERUN in flow_run.message)
