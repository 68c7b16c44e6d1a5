"""Tiled's runs compared with Prefect's flow runs, and what is missing started."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from bluesky_prefect.core import (
    ConfigurationError,
    DeploymentMissing,
    PrefectUnavailable,
    Run,
    Settings,
    SubmissionRefused,
    Workflow,
    as_workflows,
    counted,
)
from bluesky_prefect.outbox import Outbox
from bluesky_prefect.prefect_api import PrefectApi, first_listed, given_parameters
from bluesky_prefect.reconciliation._case import Case
from bluesky_prefect.reconciliation._case_finder import CaseFinder
from bluesky_prefect.reconciliation._diagnosis import Diagnosis, RunState
from bluesky_prefect.reconciliation._endings import Endings
from bluesky_prefect.reconciliation._flow_run_starter import FlowRunOverlooked, FlowRunStarter
from bluesky_prefect.reconciliation._former_names import as_begun
from bluesky_prefect.reconciliation._machine_outbox import MachineOutbox
from bluesky_prefect.reconciliation._memory import remembered_since
from bluesky_prefect.reconciliation._remarks import Remarks
from bluesky_prefect.reconciliation._report import Finding, Report
from bluesky_prefect.reconciliation._time_window import TimeWindow, moment
from bluesky_prefect.reconciliation._undelivered import undelivered_runs
from bluesky_prefect.tiled_api import Catalog, runs_between

logger = logging.getLogger(__name__)

# So many runs are looked at together, whatever the window.
_BATCH = 500
# What is silent is listened to for this part of the time after which it counts as crashed: longer than from one
# heartbeat to the next.
_LISTENING = 1 / 3
# How often a flow run that changes while it is looked at is looked at again, before that is left to the next time.
_LOOKS = 3


@dataclass
class _Tally:
    """The findings so far, and what is silent and has not been listened to."""

    runs: int = 0
    states: Counter[RunState] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    silent: list[Case] = field(default_factory=list)

    def note(self, one: Finding | Case) -> None:
        self.states[one.state] += 1
        if isinstance(one, Finding) and one.state.is_problem:
            self.findings.append(one)


class Reconciler:
    """Compares what Tiled holds with what Prefect did.

    Parameters
    ----------
    workflows : sequence of Workflow
        What a run should have had.
    settings : Settings
        How long is too long.
    outbox : Outbox, optional
        That of this machine, which knows of runs that Prefect has not heard of.
    clock : callable, optional
        Gives the time in seconds since the epoch; the Prefect server's by default, whose timestamps it compares.
    sleep : callable, optional
        Waits for so many seconds, by a clock that nobody sets.
    """

    def __init__(
        self,
        catalog: Catalog,
        api: PrefectApi,
        workflows: Sequence[Workflow],
        settings: Settings,
        *,
        outbox: Outbox | None = None,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._catalog = catalog
        self._api = api
        self._endings = Endings(api)
        self._starter = FlowRunStarter(api, outbox, beamline=settings.beamline)
        self._workflows = as_workflows(workflows)
        self._settings = settings
        self._outbox = MachineOutbox(outbox)
        self._clock = clock or api.now
        self._sleep = sleep

    def run(
        self,
        window: TimeWindow,
        *,
        submit: bool = False,
        patient: bool = False,
        report: Callable[[str], None] = lambda message: None,
        warn: Callable[[str], None] = logger.warning,
    ) -> Report:
        """Look at the runs of a window, and start what is missing or has crashed, if asked to.

        Parameters
        ----------
        submit : bool
            Start what can be started; else nothing is changed but since when a workflow is listed, if nobody knew.
        patient : bool
            Leave time between the reruns of a workflow that does not succeed.
        report, warn : callable
            Is told in one line how far it is, and what somebody should know before anything is started because of it.

        Raises
        ------
        TiledUnavailable, PrefectUnavailable
            If one of them cannot be asked. What was started until then is started.
        """
        since = {one.name: self._since(one) for one in self._workflows}
        remarks = Remarks(warn, submit=submit)
        remembered = remembered_since(self._api, self._settings, self._clock(), remarks.on_unknown_memory)
        finder = CaseFinder(self._api, self._workflows, self._settings, self._outbox, self._clock, since, remembered)
        remarks.on_catalog(self._catalog)
        remarks.on_clocks(self._clock(), time.time(), self._api.api_url)
        if window.since < remembered:
            remarks.on_memory(remembered, self._api.api_url)
        within = runs_between(self._catalog, window.since, window.until, plan=window.plan, scan_id=window.scan_id)
        runs = filter(self._workflows.is_ours, within)
        tally = _Tally()
        for one in chain(
            undelivered_runs(window, self._settings), self._found(runs, finder, remarks, tally, submit, report)
        ):
            treated = self._treated(one, finder, submit, patient)
            if isinstance(treated, Case) and treated.diagnosis.signs:
                tally.silent.append(treated)
            else:
                tally.note(treated)
        known = {finding.run_uid for finding in tally.findings}
        for dead in self._outbox.dead_letters():
            if dead.run_uid not in known and window.holds(dead):
                tally.note(dead)
        return Report(window.since, window.until, tally.runs, tally.states, tally.findings, remarks.told)

    def _since(self, workflow: Workflow) -> float:
        if workflow.since_s is not None:
            return workflow.since_s
        # Noted by whoever only looks, too: else it would be now each time, and nothing would ever be missing.
        return first_listed(self._api, workflow.names, self._clock(), note=True)

    def _found(
        self,
        runs: Iterator[Run],
        finder: CaseFinder,
        remarks: Remarks,
        tally: _Tally,
        submit: bool,
        report: Callable[[str], None],
    ) -> Iterator[Finding | Case]:
        """Yield what is found of runs; last what is silent, which is listened to if something is done about it."""
        while batch := list(islice(runs, _BATCH)):
            tally.runs += len(batch)
            looked = list(finder.of(batch))
            cases = [one for one in looked if isinstance(one, Case)]
            remarks.on_new_names((one.workflow, one.diagnosis) for one in cases)
            remarks.on_queues(one.diagnosis for one in cases)
            for one in looked:
                if submit and isinstance(one, Case) and one.diagnosis.signs:
                    tally.silent.append(one)
                else:
                    yield one
            so_far = f"{counted(tally.runs, 'run')}, back to {moment(batch[-1].time_s)}"
            report(f"{so_far}: {counted(len(tally.findings), 'problem')}")
        remarks.tell_of_queues()
        # What is silent may bring to light another that is, if that was overlooked.
        while silent := tally.silent:
            tally.silent = []
            wait_s = self._settings.heartbeat_timeout_s * _LISTENING
            report(f"{counted(len(silent), 'flow run')} without a sign of life: waiting {wait_s:.0f} s for one")
            self._sleep(wait_s)
            yield from finder.again(silent)

    def _treated(self, one: Finding | Case, finder: CaseFinder, submit: bool, patient: bool) -> Finding | Case:
        """Return what was found about a problem, once everything is done about it; anything else as it is.

        A case that is silent was overlooked till now, and has to be listened to first.
        """
        if isinstance(one, Finding) or not one.state.is_problem:
            return one
        if not submit:
            return one.finding
        for _ in range(_LOOKS):
            try:
                if self._has_ended(one.diagnosis):
                    return self._treat(one, patient)
                [one] = finder.again([one])
            except FlowRunOverlooked as overlooked:
                one = finder.since(overlooked.since_s, one)
                if one.diagnosis.signs:
                    return one
            if not one.state.is_problem:
                return one
        return replace(one.finding, action="Prefect refuses to end it: the next reconciliation tries again")

    def _has_ended(self, diagnosis: Diagnosis) -> bool:
        """Have no flow run go on beside the next one; return False if the last has changed meanwhile."""
        if diagnosis.ended is None:
            return True
        message = f"Found by reconciliation: {diagnosis.reason}."
        if diagnosis.signs is None:
            return self._endings.supersede(diagnosis.ended, message)
        return self._endings.mark_crashed(diagnosis.ended.id, message)

    def _treat(self, case: Case, patient: bool) -> Finding:
        diagnosis = case.diagnosis
        if diagnosis.next_generation is None:
            return case.finding
        if patient and diagnosis.not_before > self._clock():
            action = f"will be started again after {moment(diagnosis.not_before)}"
            return replace(case.finding, action=action, solved=True)
        return self._start(case, diagnosis.next_generation)

    def _start(self, case: Case, generation: int) -> Finding:
        # What crashed is done again as it was; the run or the workflow may have been given parameters by hand.
        parameters = given_parameters(case.flow_runs[-1].parameters) if case.flow_runs else None
        try:
            flow_run = self._starter.start(case.run, self._named(case), generation, parameters=parameters)
        except (SubmissionRefused, DeploymentMissing, ConfigurationError) as error:
            return replace(case.finding, action=f"cannot be started: {error}")
        except PrefectUnavailable as error:
            if not error.submission_specific:
                raise
            return replace(case.finding, action=f"not started this time: {error}")
        logger.info("Run %s: flow run %s (%s) created", case.run.uid, flow_run.name, flow_run.id)
        return replace(case.finding, action=f"started: {flow_run.name}", flow_run_id=flow_run.id, solved=True)

    def _named(self, case: Case) -> Workflow:
        """Return the workflow under the name that it was begun under: the same key makes no second flow run."""
        waiting = self._outbox.name_of(case.run.uid, case.workflow) if case.state is RunState.WAITING else None
        return case.workflow.under(waiting) if waiting else as_begun(case.workflow, case.flow_runs)
