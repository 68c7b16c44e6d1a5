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
    """A run, a workflow that it should have had, and the diagnosis of its flow runs, which are in their order.

    They were looked up for a run that stopped at `since_s`, in seconds since the epoch.
    """

    run: Run
    workflow: Workflow
    flow_runs: Sequence[PastFlowRun]
    diagnosis: Diagnosis
    since_s: float

    @property
    def state(self) -> RunState:
        """Its state."""
        return self.diagnosis.state

    @property
    def finding(self) -> Finding:
        """The finding that people read, before anything is done."""
        diagnosis = self.diagnosis
        finding = finding_of(self.run, self.workflow, diagnosis.state, diagnosis.since, diagnosis.reason)
        if not self.flow_runs:
            return finding
        last = self.flow_runs[-1]
        by_hand = diagnosis.next_generation is None and diagnosis.state in _STARTED_AGAIN
        return replace(finding, flow_run_id=last.id, flow_run_name=last.name, by_hand=by_hand)


def finding_of(run: Run, workflow: Workflow | None, state: RunState, since: float, reason: str) -> Finding:
    """Return a finding about a run, or about a workflow on it."""
    return Finding(run.uid, run.scan_id, run.plan_name, workflow.name if workflow else None, state, since, reason)
