"""Workflows started by hand on runs of the past."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bluesky_prefect.core import (
    ConfigurationError,
    DeploymentMissing,
    Run,
    SubmissionRefused,
    Workflow,
    error_line,
)
from bluesky_prefect.prefect_api import PastFlowRun, PrefectApi
from bluesky_prefect.reconciliation._flow_run_starter import FlowRunOverlooked, FlowRunStarter
from bluesky_prefect.reconciliation._former_names import as_begun, flow_runs_as_begun
from bluesky_prefect.reconciliation._rerun import must_not_rerun

# So many runs are looked up together.
_BATCH = 100


@dataclass(frozen=True)
class Outcome:
    """The outcome of starting one workflow on one run.

    Attributes
    ----------
    run_uid, scan_id, plan_name : str, int or None, str or None
        The run.
    workflow : str
        Name of the workflow.
    started : bool
        Whether a flow run was made, or would be, if it were not only tried.
    refused : bool
        Whether that could not be done.
    text : str
        What was done, or why nothing was.
    flow_run_id, flow_run_name : str or None
        The flow run: the one that was made, or the one that there is already.
    """

    run_uid: str
    scan_id: int | None
    plan_name: str | None
    workflow: str
    started: bool
    refused: bool
    text: str
    flow_run_id: str | None = None
    flow_run_name: str | None = None


@dataclass(frozen=True)
class ResubmissionRequest:
    """Options for processing runs.

    Attributes
    ----------
    again : bool
        Make a new flow run also where there is a good one.
    regardless : bool
        Also where the workflow's `when=` refuses the run.
    dry_run : bool
        Change nothing.
    overrides : Mapping, optional
        Parameters that win over the workflow's own.
    live : bool
        Have the flow runs go before others that wait, as those of runs that have just ended.
    remembered_since : float
        Prefect may have deleted flow runs of runs that stopped before then, in seconds since the epoch: one without
        any is left alone, unless it is to be done `again`.
    """

    again: bool = False
    regardless: bool = False
    dry_run: bool = False
    overrides: Mapping[str, Any] | None = None
    live: bool = False
    remembered_since: float = -math.inf


def resubmit(
    runs: Sequence[Run],
    workflows: Sequence[Workflow],
    request: ResubmissionRequest,
    *,
    api: PrefectApi,
    starter: FlowRunStarter,
) -> Iterator[Outcome]:
    """Start workflows on runs, and yield what came of each.

    A run that has been processed, or is being processed, is left alone unless `request` says to do it again. Where the
    last flow run did not succeed, a new one is made.

    Each run is given once. A workflow whose `when=` refuses a run is not started on it, unless `request` says so.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked. What was started until then is started.
    """
    for begin in range(0, len(runs), _BATCH):
        batch = runs[begin : begin + _BATCH]
        since_s = min(run.time_s for run in batch)
        pairs = [(run, workflow) for run in batch for workflow in workflows]
        for pair, flow_runs in zip(pairs, flow_runs_as_begun(api, pairs, since_s), strict=True):
            yield _submit(*pair, flow_runs, request, api, starter)


def choose_workflows(workflows: Iterable[Workflow], names: Sequence[str]) -> list[Workflow]:
    """Return the workflows of these names, or all; a name that is not on the list may be that of any deployment.

    A former name of a workflow on the list, or the name of its deployment, means that workflow.

    Raises
    ------
    ConfigurationError
        If a name is neither that of a workflow nor of the form ``flow-name/deployment-name``, or means several.
    """
    known = {workflow.name: workflow for workflow in workflows}
    if not names:
        return list(known.values())
    try:
        chosen = [_named(name, known) or Workflow(name) for name in names]
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} Workflows of this beamline: {', '.join(known)}.") from error
    return list({workflow.name: workflow for workflow in chosen}.values())


def _named(name: str, known: Mapping[str, Workflow]) -> Workflow | None:
    if name in known:
        return known[name]
    meant = [one for one in known.values() if name in (*one.names, one.deployment)]
    if len(meant) > 1:
        raise ConfigurationError(f"{name} means several workflows: name one of {', '.join(one.name for one in meant)}.")
    return meant[0] if meant else None


def _submit(
    run: Run,
    workflow: Workflow,
    flow_runs: Sequence[PastFlowRun],
    request: ResubmissionRequest,
    api: PrefectApi,
    starter: FlowRunStarter,
) -> Outcome:
    last = flow_runs[-1] if flow_runs else None

    def outcome(text: str, *, started: bool = False, refused: bool = False, made: Any = last) -> Outcome:
        return Outcome(
            run_uid=run.uid,
            scan_id=run.scan_id,
            plan_name=run.plan_name,
            workflow=workflow.name,
            started=started,
            refused=refused,
            text=text,
            flow_run_id=made.id if made else None,
            flow_run_name=made.name if made else None,
        )

    if not run.stop:
        return outcome("left alone: Tiled has no stop document of it", refused=True)
    if last is not None and not request.again and (why := _why_left_alone(last)):
        return outcome(f"left alone: {why} ({last.name}); --again makes a new flow run")
    if last is None and not request.again and run.time_s < request.remembered_since:
        return outcome("left alone: its flow run may be deleted in Prefect by now; --again makes one")
    if not request.regardless and (why := _why_refused(workflow, run)):
        return outcome(f"left alone: {why}; --regardless starts it all the same")
    generation = last.generation + 1 if last else 0
    if request.dry_run:
        after = f", after {last.name} ({last.state})" if last else ""
        return outcome(f"would be started{after}", started=True)
    try:
        named = as_begun(workflow, flow_runs)
        made = starter.start(run, named, generation, overrides=request.overrides, live=request.live)
    except (SubmissionRefused, DeploymentMissing, ConfigurationError) as error:
        return outcome(f"cannot be started: {error}", refused=True)
    except FlowRunOverlooked as overlooked:
        [whole] = flow_runs_as_begun(api, [(run, workflow)], overlooked.since_s)
        return _submit(run, workflow, whole, request, api, starter)
    return outcome(f"started: {made.name}", started=True, made=made)


def _why_left_alone(last: PastFlowRun) -> str:
    if must_not_rerun(last):
        return "it says that it must not be started again"
    if last.unsuccessful:
        return ""
    return "processed already" if last.state_type == "COMPLETED" else f"{last.state.lower()} already"


def _why_refused(workflow: Workflow, run: Run) -> str:
    try:
        return "" if workflow.wants(run) else "its when= refuses the run"
    except Exception as error:  # noqa: BLE001 - a facility's own function
        return f"its when= failed: {error_line(error)}"
