"""Cases: runs looked at beside what Prefect did with them, and diagnosed."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from bluesky_prefect.core import Run, Settings, Workflow, WorkflowList, error_line
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.outbox import Entry
from bluesky_prefect.prefect_api import PastFlowRun, PrefectApi, Workers, lies_ahead, signs_of_life
from bluesky_prefect.reconciliation._case import Case, finding_of
from bluesky_prefect.reconciliation._diagnosis import Diagnosis, RunState, diagnose
from bluesky_prefect.reconciliation._former_names import begun_otherwise, flow_runs_as_begun
from bluesky_prefect.reconciliation._machine_outbox import MachineOutbox
from bluesky_prefect.reconciliation._report import Finding
from bluesky_prefect.reconciliation._rerun import permitted, settings_of
from bluesky_prefect.reconciliation._time_window import moment


class CaseFinder:
    """Yields a case for each workflow that a run should have had, and changes nothing.

    The errors of `api` are those of all methods here. The clock is the server's, in seconds since the epoch. `since`
    holds, by the name of a workflow and in seconds since the epoch, when a run has to have stopped to be given it. Of
    runs that stopped before `remembered_since` Prefect may have deleted flow runs: none of them is to be started.
    """

    def __init__(
        self,
        api: PrefectApi,
        workflows: WorkflowList,
        settings: Settings,
        outbox: MachineOutbox,
        clock: Callable[[], float],
        since: Mapping[str, float],
        remembered_since: float = -math.inf,
    ) -> None:
        self._remembered_since = remembered_since
        self._since = since
        self._api = api
        self._workers = Workers(api)
        self._workflows = workflows
        self._settings = settings
        self._outbox = outbox
        self._clock = clock

    def of(self, runs: Sequence[Run]) -> Iterator[Finding | Case]:
        """Yield a case for each workflow that a run should have had, and a finding where that is not known."""
        wanted: list[tuple[Run, Workflow]] = []
        for run in runs:
            if not run.stop:
                yield self._open(run)
            elif run.start.get("prefect") is not False:
                for workflow in self._workflows:
                    answer = _wants(workflow, run)
                    if isinstance(answer, Finding):
                        yield answer
                    elif answer:
                        wanted.append((run, workflow))
        # Of a run whose clock was that far ahead its time does not say since when its flow runs may be.
        ahead = [one for one in wanted if lies_ahead(one[0].time_s)]
        yield from self._cases(ahead, 0.0)
        rest = [one for one in wanted if not lies_ahead(one[0].time_s)]
        yield from self._cases(rest, min((run.time_s for run, _ in rest), default=0.0))

    def again(self, before: Sequence[Case]) -> Iterator[Case]:
        """Yield cases as they are now. Of what is silent the same has to have been heard as before, or it lives."""
        since_s = min((case.since_s for case in before), default=0.0)
        now = self._cases([(case.run, case.workflow) for case in before], since_s)
        for case, again in zip(before, now, strict=True):
            if again.diagnosis.signs in (None, case.diagnosis.signs):
                yield again
            else:
                alive = Diagnosis(RunState.UNDER_WAY, again.diagnosis.since, "it gave a sign of life")
                yield replace(again, diagnosis=alive)

    def since(self, since_s: float, case: Case) -> Case:
        """Return a case as it is now, with the flow runs since an earlier time, in seconds since the epoch."""
        [again] = self._cases([(case.run, case.workflow)], since_s)
        return again

    def _cases(self, wanted: Sequence[tuple[Run, Workflow]], since_s: float) -> Iterator[Case]:
        found = zip(wanted, flow_runs_as_begun(self._api, wanted, since_s), strict=True)
        cases = [Case(*pair, flow_runs, self._remembered(*pair, flow_runs), since_s) for pair, flow_runs in found]
        yield from self._not_begun_otherwise(cases, since_s)

    def _remembered(self, run: Run, workflow: Workflow, flow_runs: Sequence[PastFlowRun]) -> Diagnosis:
        """Return the diagnosis by what is left in Prefect, which may not be all that there was."""
        diagnosis = self._diagnosis(run, workflow, flow_runs)
        if run.time_s >= self._remembered_since or diagnosis.state is RunState.WAITING:
            return diagnosis
        state = RunState.FORGOTTEN if diagnosis.state is RunState.MISSING else diagnosis.state
        return replace(diagnosis, state=state, next_generation=None)

    def _diagnosis(self, run: Run, workflow: Workflow, flow_runs: Sequence[PastFlowRun]) -> Diagnosis:
        diagnosis = diagnose(
            flow_runs,
            stopped=run.time_s,
            now=self._clock(),
            settings=settings_of(workflow, self._settings),
            signs_of_life=lambda one: signs_of_life(self._api, one.id),
            worker_is_gone=self._workers.have_lost,
            reason_to_wait=self._workers.reason_to_wait,
        )
        if diagnosis.state not in {RunState.MISSING, RunState.SETTLING}:
            return permitted(diagnosis, flow_runs, workflow)
        entry = self._outbox.entry(run.uid, workflow)
        if entry is not None:
            return diagnosis if diagnosis.state is RunState.SETTLING else self._with_entry(diagnosis, entry)
        if run.time_s < (since := self._since[workflow.name]):
            reason = f"the workflow is on the list since {moment(since)}"
            return replace(diagnosis, state=RunState.BEFORE_LISTED, reason=reason, next_generation=None)
        return diagnosis

    def _with_entry(self, diagnosis: Diagnosis, entry: Entry) -> Diagnosis:
        """Return the diagnosis of what has no flow run here, by what the outbox holds of it."""
        if entry.state == "declined":
            return replace(diagnosis, state=RunState.NOT_WANTED, next_generation=None)
        if entry.state == "dead":
            return replace(diagnosis, state=RunState.DEAD, reason=entry.reason or "", next_generation=None)
        if entry.api_url not in (None, self._api.api_url):
            # To start it here as well would process the run twice.
            there = "it waits for" if entry.state == "waiting" else f"{entry.flow_run_name} was made by"
            reason = f"{there} Prefect at {entry.api_url}"
            return replace(diagnosis, state=RunState.ELSEWHERE, reason=reason, next_generation=None)
        if entry.state == "waiting":
            return replace(diagnosis, state=RunState.WAITING, reason=entry.reason or "not sent yet")
        return replace(diagnosis, reason=f"Prefect had {entry.flow_run_name}, which has been deleted there")

    def _not_begun_otherwise(self, cases: Sequence[Case], since_s: float) -> Iterator[Case]:
        """Yield the cases; what was begun under a name that is not on the list is left to a person."""
        missing = [(one.run, one.workflow) for one in cases if one.state is RunState.MISSING]
        names = (name for workflow in self._workflows for name in workflow.names)
        others = begun_otherwise(self._api, missing, names, since_s)
        for one in cases:
            other = others.get((one.run.uid, one.workflow.name))
            if other is None:
                yield one
                continue
            reason = f"Prefect has {other[1]} of its flow, started as {other[0]!r}, which is not on the list"
            diagnosis = replace(one.diagnosis, state=RunState.OTHER_NAME, reason=reason, next_generation=None)
            yield replace(one, diagnosis=diagnosis)

    def _open(self, run: Run) -> Finding:
        since = run.time_s
        lost = self._clock() - since > self._settings.open_after_s
        lost = lost and not JournalDirectory(self._settings.journals_path).is_recorded(run.uid)
        reason = f"started {moment(since)}, and Tiled has no stop document"
        return finding_of(run, None, RunState.NO_STOP if lost else RunState.OPEN, since, reason)


def _wants(workflow: Workflow, run: Run) -> bool | Finding:
    """Return whether a run should have had a workflow, or that nobody knows."""
    try:
        return workflow.wants(run)
    except Exception as error:  # noqa: BLE001 - a facility's own function; the other runs are looked at all the same
        return finding_of(run, workflow, RunState.UNDECIDED, run.time_s, f"when= failed: {error_line(error)}")
