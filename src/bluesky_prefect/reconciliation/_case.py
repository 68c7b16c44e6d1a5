"""A run, and a workflow that it should have had."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bluesky_prefect.core import Run, Workflow
from bluesky_prefect.prefect_api import PastFlowRun
from bluesky_prefect.reconciliation._diagnosis import Diagnosis, RunState
from bluesky_prefect.reconciliation._report import Finding

# Of these, what is not to be started by itself is left to a person.
_STARTED_AGAIN = {RunState.CRASHED, RunState.FAILED, RunState.SILENT, RunState.ABANDONED}


@dataclass(frozen=True)
class Case:
    """A run and a workflow that it should have had, and what is to be thought of it.

    Attributes
    ----------
    run, workflow : Run, Workflow
        The run, and what it should have had.
    flow_runs : sequence of PastFlowRun
        Its flow runs, in the order of their generations.
    judgement : Diagnosis
        What they tell.
    since_s : float
        Flow runs were looked up for a run that stopped then, in seconds since the epoch.
    """

    run: Run
    workflow: Workflow
    flow_runs: Sequence[PastFlowRun]
    judgement: Diagnosis
    since_s: float

    @property
    def verdict(self) -> RunState:
        """Its state."""
        return self.judgement.verdict

    @property
    def finding(self) -> Finding:
        """The finding that people read, before anything is done."""
        judgement = self.judgement
        finding = finding_of(self.run, self.workflow, judgement.verdict, judgement.since, judgement.reason)
        if not self.flow_runs:
            return finding
        last = self.flow_runs[-1]
        by_hand = judgement.next_generation is None and judgement.verdict in _STARTED_AGAIN
        return replace(finding, flow_run_id=last.id, flow_run_name=last.name, by_hand=by_hand)


def finding_of(run: Run, workflow: Workflow | None, verdict: RunState, since: float, reason: str) -> Finding:
    """Return a finding about a run, or about a workflow on it."""
    return Finding(run.uid, run.scan_id, run.plan_name, workflow.name if workflow else None, verdict, since, reason)
