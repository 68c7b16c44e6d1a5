"""The findings of reconciliation."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bluesky_prefect.core import counted, one_line
from bluesky_prefect.reconciliation._diagnosis import RunState

# For these no flow run is expected, or not yet.
_UNEXPECTED = {
    RunState.OPEN,
    RunState.NO_STOP,
    RunState.NOT_IN_TILED,
    RunState.NOT_WANTED,
    RunState.BEFORE_LISTED,
    RunState.FORGOTTEN,
}

REMEDIES = {
    RunState.MISSING: "--submit starts it",
    RunState.WAITING: "the courier or an open session sends it when Prefect answers; --submit starts it now",
    RunState.ELSEWHERE: "if that server is gone: bluesky-prefect outbox move --from ... --to ..., "
    "or bluesky-prefect submit {uid} --workflow {workflow}",
    RunState.DEAD: "see: bluesky-prefect outbox show {uid}",
    RunState.UNDECIDED: "fix when= in the list of workflows",
    RunState.OTHER_NAME: "if it was renamed, say was= in the list; if not: bluesky-prefect submit {uid} "
    "--workflow {workflow}",
    RunState.CRASHED: "--submit starts it again",
    RunState.FAILED: "--submit starts it again",
    RunState.SILENT: "--submit marks it as crashed and starts it again",
    RunState.ABANDONED: "--submit replaces it by a crashed one and starts it again",
    RunState.STUCK: "check what its infrastructure is waiting for; if it never starts, delete the flow run in Prefect, "
    "then --submit",
    RunState.LATE: "check that a worker of its work pool is running (bluesky-prefect status)",
    RunState.GIVEN_UP: "fix the cause, then: bluesky-prefect submit {uid} --workflow {workflow} --again",
    RunState.NO_STOP: "its end is unknown: check whether its session died",
    RunState.NOT_IN_TILED: "if Tiled refuses it, fix the cause, then: bluesky-prefect journal retry {uid}",
}


@dataclass(frozen=True)
class Finding:
    """A run's workflow that is not as it should be.

    Attributes
    ----------
    run_uid : str
        The run.
    scan_id, plan_name : int or None, str or None
        As its start document has them.
    workflow : str or None
        Name of the workflow; None where it is the run itself.
    state : RunState
        What is wrong.
    since : float
        Since when, in seconds since the epoch.
    reason : str
        Why, as far as known.
    flow_run_id, flow_run_name : str or None
        The last flow run.
    action : str or None
        What was done about it, if something was.
    solved : bool
        Whether nobody has to do anything more.
    by_hand : bool
        Whether only a person may start it again.
    """

    run_uid: str
    scan_id: int | None
    plan_name: str | None
    workflow: str | None
    state: RunState
    since: float
    reason: str = ""
    flow_run_id: str | None = None
    flow_run_name: str | None = None
    action: str | None = None
    solved: bool = False
    by_hand: bool = False

    @property
    def remedy(self) -> str:
        """The remedy in words."""
        state = RunState.GIVEN_UP if self.by_hand else self.state
        return REMEDIES.get(state, "").format(uid=self.run_uid[:8], workflow=shlex.quote(one_line(self.workflow or "")))


@dataclass(frozen=True)
class Report:
    """All that reconciliation found in a window.

    Attributes
    ----------
    since, until : float, float or None
        The window, in seconds since the epoch; no end if `until` is None.
    runs : int
        How many runs it holds.
    states : Counter
        How often each state was found, problems and others.
    findings : sequence of Finding
        The problems.
    remarks : sequence of str
        What else somebody should know, as it was told meanwhile.
    """

    since: float
    until: float | None
    runs: int
    states: Counter[RunState] = field(default_factory=Counter)
    findings: Sequence[Finding] = ()
    remarks: Sequence[str] = ()

    @property
    def unsolved(self) -> list[Finding]:
        """The problems that are left."""
        return [finding for finding in self.findings if not finding.solved]

    @property
    def all_processed(self) -> bool:
        """True if no problem is left; workflows under way are none."""
        return not self.unsolved

    @property
    def summary(self) -> str:
        """The findings in a line: how many flow runs there should be, how many of each state, and what is left."""
        others = {state: many for state, many in self.states.items() if state in _UNEXPECTED}
        expected = self.states.total() - sum(others.values())
        counts = ", ".join(f"{many} {state}" for state, many in self.states.most_common())
        if expected and expected == self.states[RunState.PROCESSED]:
            counts = ", ".join(["all processed", *(f"{many} {state}" for state, many in others.items())])
        solved = len(self.findings) - len(self.unsolved)
        done = f"{solved} started, or will be" if solved else ""
        left = f"{len(self.unsolved)} need{'s' * (len(self.unsolved) == 1)} attention" if self.unsolved else ""
        told = "; ".join(filter(None, [counts, done, left]))
        return f"{counted(expected, 'flow run')} expected{f': {told}' if told else ''}"
