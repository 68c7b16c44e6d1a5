"""Asks, on a thread of its own, what became of runs, until that is known."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from bluesky_prefect.core import (
    BlueskyPrefectError,
    ConfigurationError,
    FlowFailed,
    FlowTimeout,
    OutboxError,
    PrefectUnavailable,
    Settings,
    TiledUnavailable,
    error_and_place,
    one_line,
)
from bluesky_prefect.outbox import StoppedRun, existing_outbox, stopped_runs
from bluesky_prefect.plan_stubs._flow_result import FlowResult, collect, not_started
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.watch import DECLINED, WorkflowStatus, flow_runs_of, lookup_statuses

logger = logging.getLogger(__name__)

_POLL_S = 0.5
# After so long, a second more or less is nothing to somebody who waits.
_SLOW_AFTER_S = 30.0
_SLOW_POLL_S = 2.0
_NOT_WANTED = "the workflow did not want the run (when=)"

Results = dict[str, FlowResult]


class FlowWatcher:
    """Asks what became of runs until that is known, on a thread of its own.

    Parameters
    ----------
    uids : sequence of str
        The runs.
    workflow : str or None
        The name of the workflow; None for the only one that each run has.
    timeout_s : float
        How long, in seconds.
    settings : Settings
        Where the outbox and Tiled are.

    Attributes
    ----------
    outcome : Future
        The results by uid, or the error that the plan is to get.
    deadline : float
        When the time is over, as `time.monotonic` has it.
    """

    def __init__(self, uids: Sequence[str], workflow: str | None, timeout_s: float, settings: Settings) -> None:
        self._uids = uids
        self._workflow = workflow
        self._timeout_s = timeout_s
        self._settings = settings
        self._results: Results = {}
        self._problem = "Prefect has not answered yet"
        self._began = time.monotonic()
        self._finish = threading.Event()
        self.deadline = self._began + timeout_s
        self.outcome: Future[Results] = Future()
        self._thread = threading.Thread(target=self._run, name="bluesky-prefect-wait", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        self._thread.start()

    def close(self) -> None:
        """Let the thread end; it is not waited for, since a request may hang."""
        self._finish.set()

    def timed_out(self) -> FlowTimeout:
        """Return the error for a time that is over, with the reason as far as it is known."""
        left = ", ".join(one_line(uid, 40) for uid in self._uids if uid not in self._results)
        return FlowTimeout(f"The flow run of run {left} has not ended after {self._timeout_s:g} s: {self._problem}")

    def _run(self) -> None:
        try:
            with PrefectApi(self._settings.request_timeout_s) as api:
                while not self._look(api):
                    waited_s = time.monotonic() - self._began
                    if self._finish.wait(_POLL_S if waited_s < _SLOW_AFTER_S else _SLOW_POLL_S):
                        return
            self.outcome.set_result({uid: self._results[uid] for uid in self._uids})
        except BlueskyPrefectError as error:
            self.outcome.set_exception(error)
        except Exception as error:  # noqa: BLE001 - the plan would wait for a thread that is no more
            logger.error("Waiting for flow runs failed with an unexpected error: %s", error_and_place(error))
            self.outcome.set_exception(error)

    def _look(self, api: PrefectApi) -> bool:
        """Look once at what is not known yet; return whether all is."""
        for uid in self._uids:
            if uid not in self._results:
                try:
                    result = self._result(uid, api)
                except (PrefectUnavailable, OutboxError, TiledUnavailable) as error:
                    self._problem = str(error)
                    continue
                if result is not None:
                    self._results[uid] = result
        return len(self._results) == len(self._uids)

    def _result(self, uid: str, api: PrefectApi) -> FlowResult | None:
        stopped = stopped_runs.find(uid)
        if stopped is not None and (ended := self._not_started(stopped)):
            return ended
        statuses = self._statuses(uid, stopped, api)
        if not statuses:
            self._problem = "it is unknown to this session, the outbox and Prefect"
            return None
        if len(statuses) > 1:
            names = ", ".join(repr(one.workflow) for one in statuses)
            first = one_line(statuses[0].workflow, 100)
            raise ConfigurationError(
                f"Run {one_line(uid, 40)} started {len(statuses)} workflows ({names}). Say which: "
                f'wait_for_flow(workflow="{first}")'
            )
        [status] = statuses
        if status.state_type == DECLINED:
            return not_started(uid, _NOT_WANTED, self._workflow)
        if not status.ended:
            self._problem = f"{status.state}{f': {status.message}' if status.message else ''}"
            return None
        if status.state_type != "COMPLETED":
            raise _failed(status)
        # Half a second is what asking Tiled takes.
        return collect(status, api, self._settings, patient=time.monotonic() + 2 * _POLL_S < self.deadline)

    def _not_started(self, stopped: StoppedRun) -> FlowResult | None:
        if self._workflow is not None and self._workflow not in stopped.known:
            names = ", ".join(map(repr, stopped.known))
            raise ConfigurationError(
                f"There is no workflow {self._workflow!r} here. This session's workflows: {names}."
            )
        if stopped.opted_out:
            return not_started(stopped.uid, "the run opted out of workflows (prefect=False)", self._workflow)
        if not stopped.started or (self._workflow is not None and self._workflow not in stopped.started):
            return not_started(stopped.uid, _NOT_WANTED, self._workflow)
        return None

    def _statuses(self, uid: str, stopped: StoppedRun | None, api: PrefectApi) -> list[WorkflowStatus]:
        """Return how the run's workflows are doing, or the one that is waited for, as far as anybody knows."""
        if stopped is not None:
            names = [self._workflow] if self._workflow else stopped.started
            found = lookup_statuses(api, stopped.outboxes, [(uid, name) for name in names], stopped.stopped)
            return [one for one in found.values() if one]
        with existing_outbox(self._settings.outbox_path) as outbox:
            entries = [one for one in outbox.entries(run_uid=uid) if not one.is_message] if outbox else []
            if outbox and entries:
                wanted = [(uid, one.workflow) for one in entries]
                found = lookup_statuses(api, [outbox], wanted, min(one.created for one in entries)).values()
            else:
                found = flow_runs_of(api, uid)
        found = [one for one in found if one and self._workflow in (None, one.workflow)]
        # Refusals count only where there is nothing else to wait for.
        return [one for one in found if one.state_type != DECLINED] or found[:1]


def _failed(status: WorkflowStatus) -> FlowFailed:
    what = f"flow run {status.flow_run_name}" if status.flow_run_id else f"workflow {status.workflow}"
    why = f": {one_line(status.message, 1000)}" if status.message else ""
    link = f"  {status.url}" if status.url else ""
    return FlowFailed(
        f"Run {one_line(status.run_uid, 40)}: {what}: {status.state}{why}{link}",
        run_uid=status.run_uid,
        state=status.state,
        flow_run_id=status.flow_run_id,
    )
