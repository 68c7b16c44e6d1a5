"""Tiled's runs compared with Prefect's flow runs, and what is missing started."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from bluesky_prefect.exceptions import (
    ConfigurationError,
    DeploymentMissing,
    OutboxError,
    SubmissionRefused,
)
from bluesky_prefect.flows.catalog import Catalog
from bluesky_prefect.outbox import Entry, Outbox
from bluesky_prefect.parameters import given
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.reconciliation.endings import Endings
from bluesky_prefect.reconciliation.history import History, PastFlowRun
from bluesky_prefect.reconciliation.kept import reconcile_kept
from bluesky_prefect.reconciliation.report import Finding, Report
from bluesky_prefect.reconciliation.runs import StoredRun, runs_between, runs_named
from bluesky_prefect.reconciliation.starter import Starter
from bluesky_prefect.reconciliation.verdict import Judgement, Verdict, judge
from bluesky_prefect.reconciliation.window import Window, moment
from bluesky_prefect.reconciliation.workers import Workers
from bluesky_prefect.settings import Settings
from bluesky_prefect.submission import submission_key
from bluesky_prefect.texts import counted, error_line
from bluesky_prefect.workflow import Workflow

logger = logging.getLogger(__name__)

# So many runs are looked at together, whatever the window.
_BATCH = 500
# What is silent is listened to for this part of the time after which it counts as crashed: longer than from one
# heartbeat to the next.
_LISTENING = 1 / 3
# How often a flow run that changes while it is looked at is looked at again, before that is left to the next time.
_LOOKS = 3


@dataclass(frozen=True)
class _Case:
    """A run and a workflow that it should have had."""

    run: StoredRun
    workflow: Workflow
    flow_runs: Sequence[PastFlowRun]
    judgement: Judgement

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict


@dataclass
class _Tally:
    """What was found so far."""

    runs: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def note(self, one: Finding | _Case) -> None:
        self.verdicts[one.verdict] += 1
        if isinstance(one, Finding) and one.verdict.is_problem:
            self.findings.append(one)


class Reconciler:
    """Compares what Tiled holds with what Prefect did.

    Parameters
    ----------
    catalog : Catalog
        Tiled.
    api : PrefectApi
        Prefect.
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
        self._history = History(api)
        self._endings = Endings(api)
        self._workers = Workers(api)
        self._starter = Starter(api, outbox)
        self._workflows = workflows
        self._settings = settings
        self._outbox = outbox
        self._clock = clock or api.now
        self._sleep = sleep

    def run(
        self,
        window: Window,
        *,
        submit: bool = False,
        patient: bool = False,
        report: Callable[[str], None] = lambda message: None,
    ) -> Report:
        """Look at the runs of a window, and start what is missing or has crashed, if asked to.

        Parameters
        ----------
        window : Window
            Which runs.
        submit : bool
            Start what can be started; else nothing is changed anywhere.
        patient : bool
            Leave time between the reruns of a workflow that does not succeed.
        report : callable
            Is told in one line how far it is.

        Raises
        ------
        TiledUnavailable, PrefectUnavailable
            If one of them cannot be asked. What was started until then is started.
        """
        self._workers = Workers(self._api)
        # Files have times of this machine's clock.
        kept = list(reconcile_kept(self._catalog, window, self._settings, time.time(), submit=submit))
        within = runs_between(self._catalog, window.since, window.until, plan=window.plan, scan_id=window.scan_id)
        runs = chain(self._late_comers(kept, window), within)
        tally = _Tally()
        for one in chain(kept, self._found(runs, tally, submit, report)):
            tally.note(self._treated(one, submit, patient))
        known = {finding.run_uid for finding in tally.findings}
        for dead in self._dead():
            if dead.run_uid not in known and window.holds(dead):
                tally.note(dead)
        return Report(window.since, window.until, tally.runs, tally.verdicts, tally.findings)

    def _found(
        self, runs: Iterator[StoredRun], tally: _Tally, submit: bool, report: Callable[[str], None]
    ) -> Iterator[Finding | _Case]:
        """Yield what is found of runs; last what is silent, which is listened to if something is done about it."""
        silent: list[_Case] = []
        while batch := list(islice(runs, _BATCH)):
            tally.runs += len(batch)
            for one in self._look(batch):
                if submit and isinstance(one, _Case) and one.judgement.signs:
                    silent.append(one)
                else:
                    yield one
            so_far = f"{tally.runs} runs, back to {moment(batch[-1].time_s)}"
            report(f"{so_far}: {len(tally.findings)} not as they should be")
        if silent:
            wait_s = self._settings.silent_after_s * _LISTENING
            report(f"{counted(len(silent), 'flow run')} without a sign of life: listening for {wait_s:.0f} s")
            self._sleep(wait_s)
            yield from self._look_again(silent)

    def _late_comers(self, kept: Sequence[Finding], window: Window) -> Iterator[StoredRun]:
        """Yield runs that were written to Tiled just now and stopped before the window: their flow runs failed."""
        written = [finding.run_uid for finding in kept if finding.solved]
        return (run for _, run in runs_named(self._catalog, written) if not window.since <= run.time_s < window.until)

    def _look(self, runs: Sequence[StoredRun]) -> Iterator[Finding | _Case]:
        cases: list[tuple[StoredRun, Workflow]] = []
        for run in runs:
            if run.stop is None:
                yield self._open(run)
            elif run.start.get("prefect") is not False:
                for workflow in self._workflows:
                    wanted = _wants(workflow, run)
                    if isinstance(wanted, Finding):
                        yield wanted
                    elif wanted:
                        cases.append((run, workflow))
        yield from self._cases(cases)

    def _cases(self, cases: Sequence[tuple[StoredRun, Workflow]]) -> Iterator[_Case]:
        wanted = [(run.uid, workflow.name) for run, workflow in cases]
        since_s = min((run.time_s for run, _ in cases), default=0.0)
        histories = self._history.flow_runs(wanted, since_s=since_s)
        for run, workflow in cases:
            flow_runs = histories[run.uid, workflow.name]
            yield _Case(run, workflow, flow_runs, self._judge(run, workflow, flow_runs))

    def _look_again(self, before: Sequence[_Case]) -> Iterator[_Case]:
        """Yield cases as they are now. Of what is silent the same has to have been heard as before, or it lives."""
        now = self._cases([(case.run, case.workflow) for case in before])
        for case, again in zip(before, now, strict=True):
            if again.judgement.signs in (None, case.judgement.signs):
                yield again
            else:
                alive = Judgement(Verdict.UNDER_WAY, again.judgement.since, "it gave a sign of life")
                yield replace(again, judgement=alive)

    def _judge(self, run: StoredRun, workflow: Workflow, flow_runs: Sequence[PastFlowRun]) -> Judgement:
        judgement = judge(
            flow_runs,
            stopped=run.time_s,
            now=self._clock(),
            settings=self._settings,
            signs_of_life=lambda one: self._history.signs_of_life(one.id),
            worker_is_gone=self._workers.have_lost,
        )
        if judgement.verdict is not Verdict.MISSING:
            return judgement
        entry = self._kept(submission_key(run.uid, workflow.name), run.uid)
        if entry is None:
            return judgement
        if entry.state == "dead":
            return replace(judgement, verdict=Verdict.DEAD, reason=entry.reason or "", next_generation=None)
        if entry.state == "waiting":
            return replace(judgement, verdict=Verdict.WAITING, reason=entry.reason or "nobody has sent it yet")
        return replace(judgement, reason=f"Prefect had {entry.flow_run_name}, and knows it no more")

    def _open(self, run: StoredRun) -> Finding:
        since = run.time_s
        lost = self._clock() - since > self._settings.open_after_s
        reason = f"started {moment(since)}, and Tiled holds no stop document"
        return _finding(run, None, Verdict.NO_STOP if lost else Verdict.OPEN, since, reason)

    def _treated(self, one: Finding | _Case, submit: bool, patient: bool) -> Finding | _Case:
        """Return what was found about a problem, once everything is done about it; anything else as it is."""
        if isinstance(one, Finding) or not one.verdict.is_problem:
            return one
        if not submit:
            return _case_finding(one)
        for _ in range(_LOOKS):
            if self._has_ended(one.judgement):
                return self._treat(one, patient)
            [one] = self._look_again([one])
            if not one.verdict.is_problem:
                return one
        return replace(_case_finding(one), action="Prefect refuses to end it: to be looked at again next time")

    def _has_ended(self, judgement: Judgement) -> bool:
        """Have no flow run go on beside the next one; return False if the last has changed meanwhile."""
        if judgement.ended is None:
            return True
        message = f"Found by reconciliation: {judgement.reason}."
        if judgement.signs is None:
            return self._endings.supersede(judgement.ended, message)
        return self._endings.mark_crashed(judgement.ended.id, message)

    def _treat(self, case: _Case, patient: bool) -> Finding:
        judgement, finding = case.judgement, _case_finding(case)
        if judgement.next_generation is None:
            return finding
        if patient and judgement.not_before > self._clock():
            return replace(finding, action=f"to be started again after {moment(judgement.not_before)}", solved=True)
        return self._start(case, finding, judgement.next_generation)

    def _start(self, case: _Case, finding: Finding, generation: int) -> Finding:
        # What crashed is done again as it was; the run or the workflow may have been given parameters by hand.
        parameters = given(case.flow_runs[-1].parameters) if case.flow_runs else None
        try:
            flow_run = self._starter.start(case.run, case.workflow, generation, parameters=parameters)
        except (SubmissionRefused, DeploymentMissing, ConfigurationError) as error:
            return replace(finding, action=f"cannot be started: {error}")
        logger.info("Run %s: flow run %s (%s) created", case.run.uid, flow_run.name, flow_run.id)
        return replace(finding, action=f"started: {flow_run.name}", flow_run_id=flow_run.id, solved=True)

    def _dead(self) -> Iterator[Finding]:
        """Yield the dead letters of this machine's outbox."""
        try:
            entries = self._outbox.entries(state="dead") if self._outbox else []
        except OutboxError as error:
            logger.warning("Dead letters are not known: %s", error)
            return
        for entry in entries:
            known = entry.run_uid, entry.scan_id, entry.plan_name, entry.workflow
            yield Finding(*known, Verdict.DEAD, entry.created, entry.reason or "")

    def _kept(self, key: str, run_uid: str) -> Entry | None:
        try:
            entries = self._outbox.entries(run_uid=run_uid) if self._outbox else []
        except OutboxError as error:
            logger.warning("Run %s: what the outbox holds of it is not known: %s", run_uid, error)
            return None
        return next((entry for entry in entries if entry.key == key), None)


def _wants(workflow: Workflow, run: StoredRun) -> bool | Finding:
    """Return whether a run should have had a workflow, or that nobody knows."""
    try:
        return workflow.when(run.as_run())
    except Exception as error:  # noqa: BLE001 - a facility's own function; the other runs are looked at all the same
        return _finding(run, workflow, Verdict.UNDECIDED, run.time_s, f"when= failed: {error_line(error)}")


def _case_finding(case: _Case) -> Finding:
    judgement = case.judgement
    finding = _finding(case.run, case.workflow, judgement.verdict, judgement.since, judgement.reason)
    if not case.flow_runs:
        return finding
    last = case.flow_runs[-1]
    return replace(finding, flow_run_id=last.id, flow_run_name=last.name)


def _finding(run: StoredRun, workflow: Workflow | None, verdict: Verdict, since: float, reason: str) -> Finding:
    known = run.as_run()
    return Finding(run.uid, known.scan_id, known.plan_name, workflow.name if workflow else None, verdict, since, reason)
