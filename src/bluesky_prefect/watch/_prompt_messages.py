"""Messages at the prompt: failures, and an outage that holds up runs."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from bluesky_prefect.core import (
    OutboxError,
    PrefectUnavailable,
    Settings,
    api_address,
    error_and_place,
    one_line,
    submission_key,
)
from bluesky_prefect.courier import running_courier
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.outbox import Outbox, StoppedRun, existing_outbox, stopped_runs
from bluesky_prefect.prefect_api import PrefectApi, probable_ui_url, runs_url, search_url
from bluesky_prefect.watch._failure_log import FailureLog
from bluesky_prefect.watch._workflow_status import WorkflowStatus

logger = logging.getLogger(__name__)

POLL_S = 3.0
# Sessions are left open for days, and long scans have no prompt.
_IDLE_AFTER_S = 300.0
_IDLE_POLL_S = 30.0
# The session's start-up is over by then, and its forwarder has imported Prefect.
_FIRST_LOOK_S = 8.0
# A shorter outage is nobody's business.
_WAITS_AFTER_S = 10.0
_LOOKED_THROUGH = 100
_REASON_LENGTH = 160
# A failure's line has a link at its end: room for the beginning of why; the page behind the link says it all.
_SHORT = 70


class PromptMessages:
    """Looks at the outbox and for failures, on a thread of its own, and keeps what is to be told.

    It asks Prefect only where no courier does so.

    A failed or crashed flow run is told of once, if what it came of was put in this machine's outbox: those of other
    machines have somebody else in front of them. So is a run that Tiled refuses. That submissions wait, or runs
    for Tiled, is told once for each outage.

    Parameters
    ----------
    settings : Settings
        Where the outbox is, and how long a request may take.
    clock : callable, optional
        Gives the time in seconds since the epoch.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._began = clock()
        last = stopped_runs.last()
        self._told_until = last.number if last else -1
        self._seen: set[str] | None = None  # the failures known already; None before Prefect was first asked
        self._oldest = 0.0
        self._taken = time.monotonic()
        self._failures: list[WorkflowStatus] = []
        self._shown: set[str | None] = set()
        self._waiting = ""
        self._told_of_waiting = False
        # Workflows of which a submission cannot be sent now.
        self._held_up: set[str] = set()
        self._log = FailureLog(settings)
        self._journals = JournalDirectory(settings.journals_path)
        self._undelivered = ""
        self._told_of_undelivered = False
        self._refused: list[str] = []
        self._known_refused: set[Path] = set()
        self._lock = threading.Lock()
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bluesky-prefect-notices", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        self._thread.start()

    def close(self) -> None:
        """Let the thread end; it is not waited for, since a request may hang."""
        self._finish.set()

    def take(self) -> list[str]:
        """Return what is to be told now, a line each, and forget it. Asks nobody, so it takes no time."""
        self._taken = time.monotonic()
        with self._lock:
            failures = [one for one in self._failures if one.flow_run_id not in self._shown]
            self._failures = []
            waiting, self._waiting = self._waiting, ""
            refused, self._refused = self._refused, []
            undelivered, self._undelivered = self._undelivered, ""
        return [*self._started(), *refused, *_failures(failures), *filter(None, (undelivered, waiting))]

    def note_shown(self, flow_runs: Iterable[WorkflowStatus]) -> None:
        """Tell nothing of these flow runs, which were waited for and shown in another way.

        An outage found before the wait is not told either; the next look finds what still waits.
        """
        with self._lock:
            self._shown.update(one.flow_run_id for one in flow_runs)
            if self._waiting:
                self._waiting, self._told_of_waiting = "", False
            if self._undelivered:
                self._undelivered, self._told_of_undelivered = "", False

    def look_at_journals(self) -> None:
        """Look once for runs that Tiled has refused since, and for those that wait for it; raises nothing."""
        late = self._clock() - _WAITS_AFTER_S
        waiting = [one for one in self._journals.waiting() if one.written <= late]
        # Of one that goes on nobody knows when its next document will come.
        many = sum(not self._journals.is_written(one.path) for one in waiting)
        with self._lock:
            if not many:
                self._undelivered, self._told_of_undelivered = "", False
            elif not self._told_of_undelivered:
                self._told_of_undelivered = True
                what = "1 run is" if many == 1 else f"{many} runs are"
                self._undelivered = (
                    f"{what} waiting on disk and will be delivered to Tiled automatically "
                    "(see 'bluesky-prefect journal list')"
                )
        for one in self._journals.refused():
            if one.since >= self._began and one.path not in self._known_refused:
                self._known_refused.add(one.path)
                reason = one_line(one.reason, _REASON_LENGTH)
                with self._lock:
                    self._refused.append(
                        f"Tiled refuses run {one.run_uid[:8]} (see 'bluesky-prefect journal list'): {reason}"
                    )

    def look(self, api: PrefectApi | None) -> None:
        """Look once; without an API at what the courier has found. Raises nothing, whatever is away."""
        try:
            with existing_outbox(self._settings.outbox_path) as outbox:
                # Nothing was ever sent from here: there is nothing to ask Prefect for.
                if outbox is not None:
                    self._look_at_what_waits(outbox)
                    found = self._log.found(outbox, api) if api else self._log.read()
                    if found is not None:
                        self._look_for_failures(outbox, found)
        except (OutboxError, PrefectUnavailable) as error:
            logger.debug("Not looked: %s", error)
        except Exception as error:  # noqa: BLE001 - a thread that ends here would never tell anything again
            logger.debug("Not looked, and going on: %s", error_and_place(error))

    def _started(self) -> Iterator[str]:
        stopped = [run for run in stopped_runs.after(self._told_until) if run.sent]
        if stopped:
            self._told_until = stopped[-1].number
            if self._settings.tell_of_started_flows:
                held_up = {name for run in stopped for name in run.sent} <= self._held_up
                yield _starting(stopped, waits=held_up or self._told_of_undelivered)

    def _run(self) -> None:
        wait_s = _FIRST_LOOK_S
        with ExitStack() as opened:
            api: PrefectApi | None = None
            while not self._finish.wait(wait_s):
                wait_s = POLL_S if time.monotonic() - self._taken < _IDLE_AFTER_S else _IDLE_POLL_S
                self.look_at_journals()
                courier = running_courier(self._settings)
                if courier is not None and courier.prefect == api_address():
                    self.look(None)
                    continue
                try:
                    api = api or opened.enter_context(PrefectApi(self._settings.request_timeout_s))
                except Exception as error:  # noqa: BLE001 - importing Prefect reads its settings, and packages of all kinds
                    logger.debug("Prefect cannot be imported: %s", error_and_place(error))
                else:
                    self.look(api)

    def _look_at_what_waits(self, outbox: Outbox) -> None:
        if not outbox.has_waiting():
            self._told_of_waiting = False
            self._held_up = set()
            with self._lock:
                self._waiting = ""  # it is over before anybody was told
            return
        late = self._clock() - _WAITS_AFTER_S
        entries = outbox.entries(state="waiting", limit=_LOOKED_THROUGH)
        stuck = [one for one in entries if one.reason and one.created <= late]
        # What waits for another server holds up nothing of this session.
        self._held_up = {one.workflow for one in stuck if one.api_url in (None, api_address())}
        reasons = [one.reason for one in stuck if one.reason]
        # They may have gone meanwhile.
        if reasons and not self._told_of_waiting and (many := outbox.counts().waiting):
            self._told_of_waiting = True
            what = "1 submission is" if many == 1 else f"{many} submissions are"
            reason = one_line(reasons[0], 2 * _REASON_LENGTH)
            with self._lock:
                self._waiting = f"{what} waiting and will be sent automatically once this is resolved: {reason}"

    def _look_for_failures(self, outbox: Outbox, found: Sequence[tuple[WorkflowStatus, float]]) -> None:
        if self._seen is None:
            # What had failed before this session began was told to the one before, or is no news.
            self._seen = {str(one.flow_run_id) for one, failed_at in found if failed_at < self._began}
            # Where somebody deletes a flow run, an older one than all of these takes its place in the list.
            self._oldest = min((failed_at for _, failed_at in found), default=0.0)
        new = [one for one, at in found if str(one.flow_run_id) not in self._seen and at >= self._oldest]
        self._seen.update(str(one.flow_run_id) for one in new)
        ours = [one for one in new if outbox.named(submission_key(one.run_uid, one.workflow), limit=1)]
        with self._lock:
            self._failures += reversed(ours)


def _starting(runs: Sequence[StoppedRun], *, waits: bool) -> str:
    """Return one line, whatever the number; `waits` if they will have to wait for Tiled or Prefect."""
    workflows = one_line(", ".join(dict.fromkeys(name for run in runs for name in run.sent)), _REASON_LENGTH)
    name = runs[0].name if len(runs) == 1 else ""
    which, starts = (one_line(name, _REASON_LENGTH), "starts") if name else (f"{len(runs)} runs", "start")
    if waits:
        return f"{which} will start {workflows} when Tiled and Prefect can be reached again"
    # The flow runs are made in a moment, and the prompt does not wait for them: the page finds them by their name.
    ui = probable_ui_url()
    page = search_url(ui, name) if name else runs_url(ui)
    return f"{which} {starts} {workflows}" + (f": {page}" if ui else "")


def _failures(failures: Sequence[WorkflowStatus]) -> Iterator[str]:
    """Yield one line, whatever the number."""
    if not failures:
        return
    last = failures[-1]
    if len(failures) == 1:
        reason = f": {_short(last.message)}" if last.message else ""
        yield f"{_named(last)} {last.state.lower()}{reason}  {last.url}"
    else:
        scans = dict.fromkeys(str(one.scan_id or one.run_uid[:8]) for one in failures)
        many = one_line(", ".join(scans), _REASON_LENGTH)
        yield f"{len(failures)} flow runs failed or crashed (scans {many}; see %flows --failed). The last: {last.url}"


def _named(status: WorkflowStatus) -> str:
    scan = f"Scan {status.scan_id}" if status.scan_id is not None else f"Run {one_line(status.run_uid[:8])}"
    plan = f" ({one_line(status.plan_name, 40)})" if status.plan_name else ""
    return f"{scan}{plan}: flow run {one_line(status.flow_run_name or '', 100)}"


def _short(message: str) -> str:
    line = one_line(message.strip().partition("\n")[0], 1000)
    return line if len(line) <= _SHORT else f"{line[:_SHORT].rstrip()} ..."
