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
from bluesky_prefect.outbox import Entry, Outbox
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.reconciliation.history import History, PastFlowRun
from bluesky_prefect.reconciliation.kept import reconcile_kept
from bluesky_prefect.reconciliation.report import Finding, Report
from bluesky_prefect.reconciliation.runs import StoredRun, runs_between, runs_named
from bluesky_prefect.reconciliation.starter import Starter
from bluesky_prefect.reconciliation.verdict import Judgement, Verdict, judge
from bluesky_prefect.reconciliation.window import Window, moment
from bluesky_prefect.settings import Settings
from bluesky_prefect.submission import submission_key
from bluesky_prefect.texts import error_line
from bluesky_prefect.workflow import Workflow

logger = logging.getLogger(__name__)

# So many runs are looked at together, whatever the window.
_BATCH = 500


@dataclass(frozen=True)
class _Case:
    """A run and a workflow that it should have had."""

    run: StoredRun
    workflow: Workflow
    flow_runs: Sequence[PastFlowRun]
    judgement: Judgement


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
        self._history = History(api)
        self._starter = Starter(api, outbox)
        self._workflows = workflows
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
        kept = list(reconcile_kept(self._catalog, window, self._settings, self._clock(), submit=submit))
        within = runs_between(self._catalog, window.since, window.until, plan=window.plan, scan_id=window.scan_id)
        runs = chain(self._late_comers(kept, window), within)
        verdicts = Counter(finding.verdict for finding in kept)
        findings = kept
        seen = 0
        while batch := list(islice(runs, _BATCH)):
            seen += len(batch)
            for one in self._look(batch):
                verdict = one.verdict if isinstance(one, Finding) else one.judgement.verdict
                verdicts[verdict] += 1
                if verdict.is_problem:
                    findings.append(one if isinstance(one, Finding) else self._treat(one, submit, patient))
            report(f"{seen} runs, back to {moment(batch[-1].time_s)}: {len(findings)} not as they should be")
        known = {finding.run_uid for finding in findings}
        elsewhere = [dead for dead in self._dead() if dead.run_uid not in known and window.holds(dead)]
        verdicts.update(finding.verdict for finding in elsewhere)
        findings += elsewhere
        return Report(window.since, window.until, seen, verdicts, findings)

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
        histories = self._history.flow_runs(
            ((run.uid, workflow.name) for run, workflow in cases), since_s=min(run.time_s for run in runs)
        )
        for run, workflow in cases:
            flow_runs = histories[run.uid, workflow.name]
            yield _Case(run, workflow, flow_runs, self._judge(run, workflow, flow_runs))

    def _judge(self, run: StoredRun, workflow: Workflow, flow_runs: Sequence[PastFlowRun]) -> Judgement:
        judgement = judge(
            flow_runs,
            stopped=run.time_s,
            now=self._clock(),
            settings=self._settings,
            signs_of_life=lambda one: self._history.signs_of_life(one.id),
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

    def _treat(self, case: _Case, submit: bool, patient: bool) -> Finding:
        judgement = case.judgement
        finding = _finding(case.run, case.workflow, judgement.verdict, judgement.since, judgement.reason)
        if case.flow_runs:
            last = case.flow_runs[-1]
            finding = replace(finding, flow_run_id=last.id, flow_run_name=last.name)
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


def _finding(run: StoredRun, workflow: Workflow | None, verdict: Verdict, since: float, reason: str) -> Finding:
    known = run.as_run()
    return Finding(run.uid, known.scan_id, known.plan_name, workflow.name if workflow else None, verdict, since, reason)
