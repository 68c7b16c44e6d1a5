"""A workflow's decision about a run: whether to start, and with which parameters."""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from bluesky_prefect.core import Run, Submission, Workflow, error_and_place, error_line, submission_key
from bluesky_prefect.outbox import Draft, State

logger = logging.getLogger(__name__)

# All of its run that a refusal needs, so that a person finds it.
_NAMES_OF_A_RUN = ("scan_id", "plan_name")
_FAILED = ("abort", "fail")


@dataclass(frozen=True)
class Decision:
    """A workflow's decision about a run.

    Attributes
    ----------
    draft : Draft
        What to put in the outbox: a submission, a dead letter if the workflow failed to decide, or a refusal.
    interrupt : BaseException or None
        What ends this process, if it came while the workflow decided.
    concerns : bool
        Whether the workflow is for such a run, also where it refuses this one because the run failed.
    """

    draft: Draft
    interrupt: BaseException | None = None
    concerns: bool = True

    @property
    def is_wanted(self) -> bool:
        """True if the workflow is started, or somebody has to see that it could not be."""
        return self.draft.state != "declined"


def decide(workflow: Workflow, run: Run, *, beamline: str | None = None) -> Decision:
    """Ask a workflow about a run. Whatever it raises is told and becomes a dead letter; nothing is raised."""
    try:
        theirs = run.copy()  # what a workflow changes concerns neither the next one nor what is sent
        if not workflow.when(theirs):
            declined = _draft(workflow, run, "declined", "when= refused the run", beamline=beamline)
            return Decision(declined, concerns=_concerns(workflow, run))
        return Decision(_draft(workflow, run, parameters=workflow.parameters_for(theirs), beamline=beamline))
    except BaseException as error:  # noqa: BLE001 - it is somebody else's code
        # Whether this run was wanted is not known: a person has to see it.
        failed = f"when= or parameters= of workflow {workflow.name!r} failed"
        logger.error("Run %s: %s: %s", run.uid, failed, error_and_place(error))
        draft = _draft(workflow, run, "dead", f"{failed}: {error_line(error)}", undecided=True, beamline=beamline)
        return Decision(draft, error if ends_process(error) else None)


def messages(workflows: Iterable[Workflow], decisions: Iterable[Decision], run: Run) -> list[Draft]:
    """Return what has people told that a run failed or was aborted: once, however many of its workflows say so."""
    if run.exit_status not in _FAILED:
        return []
    asked = zip(workflows, decisions, strict=True)
    notices = dict.fromkeys(
        notice for workflow, decision in asked if decision.concerns for notice in workflow.run_notices
    )
    return [Draft(Submission.message(run, notice)) for notice in notices]


def ends_process(error: BaseException) -> bool:
    """Tell whether somebody wants this process to end, or a piece of code has only raised what looks like it.

    Signals are raised in the main thread. A RunEngine calls its callbacks in another one, and does not survive a
    SystemExit there.
    """
    return isinstance(error, KeyboardInterrupt | SystemExit) and threading.current_thread() is threading.main_thread()


def _concerns(workflow: Workflow, run: Run) -> bool:
    if run.exit_status not in _FAILED or not workflow.run_notices:
        return False
    try:
        return workflow.wants(replace(run, stop={**run.stop, "exit_status": "success"}))
    except Exception as error:  # noqa: BLE001 - it is somebody else's code, asked about a run that is not like that
        logger.debug("Run %s: %s is told of, since nobody knows whether: %s", run.uid, workflow.name, error_line(error))
        return True


def _draft(workflow: Workflow, run: Run, state: State = "waiting", reason: str | None = None, **what: Any) -> Draft:
    start, stop = run.start, run.stop
    if state == "declined":
        start, stop = {name: start[name] for name in _NAMES_OF_A_RUN if name in start}, {}
    submission = Submission(
        key=submission_key(run.uid, workflow.name),
        workflow=workflow.name,
        deployment=workflow.deployment,
        run_uid=run.uid,
        start=start,
        stop=stop,
        notify=workflow.notices,
        **what,
    )
    return Draft(submission, state, reason)
