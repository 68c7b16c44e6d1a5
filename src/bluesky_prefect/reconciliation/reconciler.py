"""Tiled's runs compared with Prefect's flow runs, and what is missing started."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from bluesky_prefect.exceptions import (
    ConfigurationError,
    DeploymentMissing,
    OutboxError,
    SubmissionRefused,
)
from bluesky_prefect.flows.catalog import Catalog
from bluesky_prefect.kept_runs import is_recorded
from bluesky_prefect.outbox import Entry, Outbox
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.reconciliation.former_names import Past, begun_otherwise, pasts
from bluesky_prefect.reconciliation.history import History, PastFlowRun
from bluesky_prefect.reconciliation.kept import reconcile_kept
from bluesky_prefect.reconciliation.remarks import Remarks
from bluesky_prefect.reconciliation.report import Finding, Report
from bluesky_prefect.reconciliation.rerun import permitted, settings_of
from bluesky_prefect.reconciliation.runs import StoredRun, runs_between, runs_named
from bluesky_prefect.reconciliation.starter import Starter
from bluesky_prefect.reconciliation.verdict import Judgement, Verdict, judge
from bluesky_prefect.reconciliation.window import Window, moment
from bluesky_prefect.settings import Settings
from bluesky_prefect.submission import submission_key
from bluesky_prefect.texts import error_line
from bluesky_prefect.workflow import Workflow
from bluesky_prefect.workflow_list import as_workflows

logger = logging.getLogger(__name__)

# So many runs are looked at together, whatever the window.
_BATCH = 500
# Of these, what is not to be started by itself is left to a person.
_STARTED_AGAIN = {Verdict.CRASHED, Verdict.FAILED, Verdict.SILENT}


@dataclass(frozen=True)
class _Case:
    """A run and a workflow that it should have had."""

    run: StoredRun
    workflow: Workflow
    past: Past
    judgement: Judgement

    @property
    def flow_runs(self) -> Sequence[PastFlowRun]:
        return self.past.flow_runs


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
        Gives the time in seconds since the epoch.
    """

    def __init__(
        self,
        catalog: Catalog,
        api: PrefectApi,
        workflows: Sequence[Workflow],
        settings: Settings,
        *,
        outbox: Outbox | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._api = api
        self._history = History(api)
        self._starter = Starter(api, outbox)
        self._workflows = as_workflows(workflows)
        self._settings = settings
        self._outbox = outbox
        self._clock = clock

    def run(
        self,
        window: Window,
        *,
        submit: bool = False,
        patient: bool = False,
        report: Callable[[str], None] = lambda message: None,
        warn: Callable[[str], None] = logger.warning,
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
        warn : callable
            Is told in one line what somebody should know, before anything is started because of it.

        Raises
        ------
        TiledUnavailable, PrefectUnavailable
            If one of them cannot be asked. What was started until then is started.
        """
        kept = list(reconcile_kept(self._catalog, window, self._settings, self._clock(), submit=submit))
        within = runs_between(self._catalog, window.since, window.until, plan=window.plan, scan_id=window.scan_id)
        runs = chain(self._late_comers(kept, window), within)
        verdicts = Counter(finding.verdict for finding in kept)
        findings = kept
        seen = 0
        remarks = Remarks(warn, submit=submit)
        remarks.on_catalog(self._catalog)
        while batch := list(islice(filter(self._is_ours, runs), _BATCH)):
            seen += len(batch)
            looked = list(self._look(batch))
            remarks.on_new_names((one.workflow, one.judgement) for one in looked if isinstance(one, _Case))
            for one in looked:
                verdict = one.verdict if isinstance(one, Finding) else one.judgement.verdict
                verdicts[verdict] += 1
                if verdict.is_problem:
                    findings.append(one if isinstance(one, Finding) else self._treat(one, submit, patient))
            report(f"{seen} runs, back to {moment(batch[-1].time_s)}: {len(findings)} not as they should be")
        known = {finding.run_uid for finding in findings}
        elsewhere = [dead for dead in self._dead() if dead.run_uid not in known and window.holds(dead)]
        verdicts.update(finding.verdict for finding in elsewhere)
        findings += elsewhere
        return Report(window.since, window.until, seen, verdicts, findings, remarks.told)

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
        since_s = min((run.time_s for run in runs), default=0.0)
        found = zip(cases, pasts(self._history, cases, since_s), strict=True)
        judged = [_Case(run, workflow, past, self._judge(run, workflow, past)) for (run, workflow), past in found]
        yield from self._not_begun_otherwise(judged, since_s)

    def _judge(self, run: StoredRun, workflow: Workflow, past: Past) -> Judgement:
        judgement = judge(
            past.flow_runs,
            stopped=run.time_s,
            now=self._clock(),
            settings=settings_of(workflow, self._settings),
            signs_of_life=lambda one: self._history.signs_of_life(one.id),
        )
        if judgement.verdict is not Verdict.MISSING:
            return permitted(judgement, past.flow_runs, workflow)
        entry = self._kept(run.uid, workflow)
        if entry is None:
            return judgement
        if entry.state == "declined":
            return replace(judgement, verdict=Verdict.NOT_WANTED, next_generation=None)
        if entry.state == "dead":
            return replace(judgement, verdict=Verdict.DEAD, reason=entry.reason or "", next_generation=None)
        if entry.state == "waiting":
            return replace(judgement, verdict=Verdict.WAITING, reason=entry.reason or "nobody has sent it yet")
        return replace(judgement, reason=f"Prefect had {entry.flow_run_name}, and knows it no more")

    def _not_begun_otherwise(self, cases: Sequence[_Case], since_s: float) -> Iterator[_Case]:
        """Yield the cases; what was begun under a name that is not on the list is left to a person."""
        missing = [(one.run, one.workflow) for one in cases if one.judgement.verdict is Verdict.MISSING]
        names = (name for workflow in self._workflows for name in workflow.names)
        others = begun_otherwise(self._api, missing, names, since_s)
        for one in cases:
            other = others.get((one.run.uid, one.workflow.name))
            if other is None:
                yield one
                continue
            reason = f"Prefect has {other[1]} of its flow, begun as {other[0]!r}, which is not on the list"
            judgement = replace(one.judgement, verdict=Verdict.OTHER_NAME, reason=reason, next_generation=None)
            yield replace(one, judgement=judgement)

    def _is_ours(self, run: StoredRun) -> bool:
        """Tell whether a run is the beamline's; one of which nobody can tell is, so that none is lost."""
        try:
            return bool(self._workflows.ours(run.as_run()))
        except Exception as error:  # noqa: BLE001 - a facility's own function
            logger.error("Run %s is taken for one of ours: ours= failed: %s", run.uid, error_line(error))
            return True

    def _open(self, run: StoredRun) -> Finding:
        since = run.time_s
        lost = self._clock() - since > self._settings.open_after_s
        lost = lost and not is_recorded(self._settings.kept_runs_path, run.uid)
        reason = f"started {moment(since)}, and Tiled holds no stop document"
        return _finding(run, None, Verdict.NO_STOP if lost else Verdict.OPEN, since, reason)

    def _treat(self, case: _Case, submit: bool, patient: bool) -> Finding:
        judgement = case.judgement
        finding = _finding(case.run, case.workflow, judgement.verdict, judgement.since, judgement.reason)
        if case.flow_runs:
            last = case.flow_runs[-1]
            by_hand = judgement.next_generation is None and judgement.verdict in _STARTED_AGAIN
            finding = replace(finding, flow_run_id=last.id, flow_run_name=last.name, by_hand=by_hand)
        if not submit:
            return finding
        if judgement.ended is not None:
            self._history.mark_crashed(judgement.ended.id, f"Found by reconciliation: {judgement.reason}.")
        if judgement.next_generation is None:
            return finding
        if patient and judgement.not_before > self._clock():
            return replace(finding, action=f"to be started again after {moment(judgement.not_before)}", solved=True)
        return self._start(case, finding, judgement.next_generation)

    def _start(self, case: _Case, finding: Finding, generation: int) -> Finding:
        # What crashed is done again as it was; the run or the workflow may have been given parameters by hand.
        parameters = case.flow_runs[-1].parameters if case.flow_runs else None
        try:
            flow_run = self._starter.start(case.run, self._named(case), generation, parameters=parameters)
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

    def _named(self, case: _Case) -> Workflow:
        """Return the workflow under the name that it was begun under: the same key makes no second flow run."""
        if case.judgement.verdict is Verdict.WAITING and (entry := self._kept(case.run.uid, case.workflow)):
            return case.workflow.under(entry.workflow)
        return case.workflow.under(case.past.name)

    def _kept(self, run_uid: str, workflow: Workflow) -> Entry | None:
        try:
            entries = self._outbox.entries(run_uid=run_uid) if self._outbox else []
        except OutboxError as error:
            logger.warning("Run %s: what the outbox holds of it is not known: %s", run_uid, error)
            return None
        by_key = {entry.key: entry for entry in entries}
        keys = (submission_key(run_uid, name) for name in workflow.names)
        return next((by_key[key] for key in keys if key in by_key), None)


def _wants(workflow: Workflow, run: StoredRun) -> bool | Finding:
    """Return whether a run should have had a workflow, or that nobody knows."""
    try:
        return workflow.when(run.as_run())
    except Exception as error:  # noqa: BLE001 - a facility's own function; the other runs are looked at all the same
        return _finding(run, workflow, Verdict.UNDECIDED, run.time_s, f"when= failed: {error_line(error)}")


def _finding(run: StoredRun, workflow: Workflow | None, verdict: Verdict, since: float, reason: str) -> Finding:
    known = run.as_run()
    return Finding(run.uid, known.scan_id, known.plan_name, workflow.name if workflow else None, verdict, since, reason)
