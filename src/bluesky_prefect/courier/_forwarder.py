"""Takes submissions from the outbox to Prefect."""

import atexit

# Imported for Prefect: where Prefect itself is imported only while the process ends (a short script), it is too late
# for these two, which register something to be done at the end.
import concurrent.futures.process
import concurrent.futures.thread  # noqa: F401
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress

from bluesky_prefect.core import (
    DeploymentMissing,
    OutboxError,
    PrefectUnavailable,
    Settings,
    SubmissionRefused,
    ToldOfForks,
    api_address,
    error_and_place,
    error_line,
    tell_of_forks,
)
from bluesky_prefect.courier._backlog import Backlog
from bluesky_prefect.courier._backoff import Backoff
from bluesky_prefect.courier._courier_lock import RunningCourier, running_courier
from bluesky_prefect.courier._outbox_upkeep import OutboxUpkeep
from bluesky_prefect.courier._preparation import Preparation
from bluesky_prefect.courier._reminders import Reminders
from bluesky_prefect.courier._submission_backoff import MOMENT_S, SubmissionBackoff
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.metrics import Signals
from bluesky_prefect.outbox import Entry, Outbox
from bluesky_prefect.prefect_api import FlowRunRef, PrefectApi

logger = logging.getLogger(__name__)

# How often the outbox is looked at for what another, ended process has left in it.
POLL_S = 2.0
# A session's start-up is over by then, and importing Prefect disturbs nobody.
_WARM_UP_S = 5.0
# Enough for importing Prefect and a few requests, at the end of a short script.
CLOSE_TIMEOUT_S = 10.0
_SILENT_S = 2.0
# How soon it is looked for an answer about deployments: a wrong name is told before the scan.
_LOOKING_S = 0.5
# How long a run waits that was found not to be in Tiled when its turn had come.
HELD_S = 0.5
# A look that finds nothing to send is repeated after this many times as long.
_REST = 10
# A run that stopped so long before it came is one of the past: a listener has caught up.
_REPLAYED_S = 600.0


class Forwarder(ToldOfForks):
    """Takes submissions from outboxes to Prefect, on a thread of its own.

    Outages are retried for ever, with exponential back-off and jitter, and so is a submission that has a trouble of
    its own, while all others go on; a missing deployment is retried slowly; a submission that Prefect refuses becomes
    a dead letter. Log messages tell the beginning and the end of an outage, not each try.

    Parameters
    ----------
    outboxes : sequence of Outbox
        The first is the durable one. What is in the others is moved to it when it can be, and sent first: it would be
        lost with the session.
    deployments : sequence of str, optional
        Asked for once, a few seconds after the start: what would keep their first runs waiting is logged then.
    notices : sequence of str, optional
        What Prefect is to tell people of; seen to a few seconds after the start, and now and then.
    connect : callable, optional
        Makes the context manager whose value creates flow runs.
    stands_by : bool, optional
        Leave what is on disk to the courier of this state directory, as long as one is at work that sends to the same
        Prefect.
    poll_s : float, optional
        How often the outbox is looked at for what others have put there, in seconds.
    signals : Signals, optional
        Where its thread says how it is; see `serve_metrics`.
    clock : callable, optional
        Gives a time in seconds that never jumps.

    Attributes
    ----------
    signals : Signals
        Those that were given, or its own.
    api_url : str or None
        Address of the Prefect API that it sends to, as `comparable_url` writes it; None if it has none, or
        has not imported Prefect yet.
    """

    def __init__(
        self,
        outboxes: Sequence[Outbox],
        settings: Settings,
        *,
        deployments: Sequence[str] = (),
        notices: Sequence[str] = (),
        stands_by: bool = False,
        poll_s: float = POLL_S,
        connect: Callable[[], AbstractContextManager[PrefectApi]] | None = None,
        signals: Signals | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stands_by = stands_by
        self._poll_s = poll_s
        self._journals = JournalDirectory(settings.journals_path)
        self._outboxes = outboxes
        self._settings = settings
        self._connect = connect or (lambda: PrefectApi(settings.request_timeout_s))
        self.signals = signals or Signals()
        self._clock = clock
        self._upkeep = OutboxUpkeep(outboxes, settings, clock)
        self._outage = Backoff(settings, clock, logger)
        self._backoff = SubmissionBackoff(settings, clock)
        self._resources = ExitStack()
        self._api: PrefectApi | None = None
        self.api_url: str | None = None
        self._reminders = Reminders(logger, clock)
        self._preparation = Preparation(self._connected, deployments, notices, self._reminders, settings.workflows)
        self._backlog = Backlog(outboxes, self._reminders, clock)
        self._deadline = 0.0
        self._wake = threading.Event()
        self._finish = threading.Event()
        self._thread = self._new_thread()
        self._sleeps = False

    def start(self) -> None:
        """Start the thread. At the end of the process it gets `CLOSE_TIMEOUT_S` to send what waits."""
        self._thread.start()
        tell_of_forks(self)
        atexit.register(self.close)

    def wake(self) -> None:
        """Say that something was put in an outbox."""
        if self._sleeps:
            with suppress(RuntimeError):  # another thread was first, or no thread can be started now
                self._thread.start()
            self._sleeps = self._thread.ident is None
        self._wake.set()

    def look_up(self, deployments: Sequence[str]) -> None:
        """Have deployments looked up in an idle moment that are new among those that runs start."""
        self._preparation.add(deployments)

    def after_fork(self, *, in_child: bool) -> None:
        """Begin anew in a child, which has no thread: with one that starts when there is something to send.

        The parent's connection to Prefect is neither used nor closed.
        """
        if in_child and not self._finish.is_set():
            self._parents = (self._resources, self._api)
            self._resources, self._api = ExitStack(), None
            self._preparation.after_fork()
            self._outage = Backoff(self._settings, self._clock, logger)
            self._backoff = SubmissionBackoff(self._settings, self._clock)
            # Anew, since the parent's thread may have been in the middle of them.
            self._wake, self._finish = threading.Event(), threading.Event()
            self._thread, self._sleeps = self._new_thread(), True

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Send what can be sent within `timeout_s` seconds, then end the thread; return whether it has ended.

        What is not sent by then stays in the outbox.
        """
        atexit.unregister(self.close)
        self._deadline = self._clock() + timeout_s
        self._finish.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(min(timeout_s, _SILENT_S))
            if self._thread.is_alive():
                logger.warning("Sending the last runs to Prefect, for %g s at most ...", timeout_s)
                self._thread.join(max(0.0, timeout_s - _SILENT_S))
            self._backlog.tell_at_the_end(self._here, self._courier())
        return not self._thread.is_alive()

    def step(self) -> float:
        """Send one submission, if one is due, and return how long to wait before the next step, in seconds.

        Whatever goes wrong is logged and the submission kept; nothing is raised.
        """
        began = self._clock()
        try:
            self._upkeep.rescue()
            self._upkeep.prune()
            for outbox in reversed(self._senders()):
                entry = self._take(outbox)
                if entry is not None:
                    return self._send(outbox, entry)
            self._backlog.tell_what_is_for_others(self._here)
        except OutboxError as error:
            # What Prefect has accepted meanwhile is found again by its idempotency key.
            self._reminders.tell(
                "outbox", logging.ERROR, "%s What was being sent is sent again when it works again.", error
            )
            return self._settings.retry_initial_s
        except Exception as error:  # noqa: BLE001 - it goes on, whatever it is
            logger.error("The forwarder met an error it does not know; it goes on: %s", error_and_place(error))
            return self._settings.retry_initial_s
        # With thousands of runs on their way to Tiled, looking must not be all that it does; who waits for the outbox
        # meanwhile is a RunEngine. What has arrived wakes it.
        return min(max(self._poll_s, _REST * (self._clock() - began)), self._backoff.next_s())

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="bluesky-prefect-forwarder", daemon=True)

    def _run(self) -> None:
        idle_since = self._clock()
        while not self._finish.is_set():
            self._wake.clear()
            wait_s = self.step()
            self.signals.at_work(wait_s)
            if wait_s == 0.0:
                continue
            if self._outage.under_way:
                self._finish.wait(wait_s)  # in an outage a new run is no reason to knock again
                continue  # and the warm-up would tell once more what the attempt has told
            if self._courier() is not None:
                self._preparation.look_up()
                self._wake.wait(min(wait_s, _LOOKING_S) if self._preparation.is_looking else wait_s)
                continue
            self._wake.wait(wait_s)
            if (self._api is None or not self._preparation.is_done) and self._clock() - idle_since > _WARM_UP_S:
                self._preparation.begin()
            elif self._api is not None:
                self._preparation.go_on(self._api)
        self._drain()
        self._resources.close()

    def _drain(self) -> None:
        """Send what can be sent by the deadline; a server that is busy is asked again, one that is away is not.

        A submission that has a trouble of its own is waited for as long as it keeps its place.
        """
        self._upkeep.rescue(at_once=True)
        if self._outage.under_way and not self._outage.busy:
            return
        while (wait_s := self.step()) == 0.0 or self._is_worth_waiting():
            if self._clock() + wait_s > self._deadline:
                return
            time.sleep(min(wait_s, 0.5))
        if self._api is not None and not self._outage.under_way:
            self._preparation.note_listed(self._api)

    def _is_worth_waiting(self) -> bool:
        if self._outage.under_way:
            return self._outage.busy
        return self._backoff.busy or self._backoff.next_s() <= MOMENT_S

    def _connected(self) -> PrefectApi:
        if self._api is None:
            try:
                self._api = self._resources.enter_context(self._connect())
                self.api_url = self._api.api_url
            except PrefectUnavailable:
                raise
            except Exception as error:
                # Importing Prefect reads its settings, and packages of all kinds.
                raise PrefectUnavailable(
                    f"Prefect cannot be imported: {error_and_place(error)}. 'prefect version' may say more.",
                    transient=False,
                ) from error
        return self._api

    def _take(self, outbox: Outbox) -> Entry | None:
        entry, trouble = None, None
        try:
            if outbox.has_waiting():
                entry = self._take_next(outbox)
        except OutboxError as error:
            self._reminders.tell("outbox", logging.ERROR, "%s Runs are kept in memory until it works again.", error)
            trouble = str(error)
        self.signals.trouble(f"outbox {outbox.path}", trouble)
        return entry

    def _take_next(self, outbox: Outbox) -> Entry | None:
        with suppress(PrefectUnavailable):  # `_send` meets it again, and tells of it
            self._connected()
        held_runs = self._journals.undelivered_runs()
        entry = outbox.take(self._here, skip=self._backoff.held, held_runs=held_runs)
        if entry is None or entry.is_message or not self._journals.is_undelivered(entry.run_uid):
            return entry
        # It has begun and stopped while the outbox was waited for, or its uid is too long for a name.
        outbox.give_back(entry.key, "Tiled does not have the run yet", HELD_S, aside=True)
        return None

    def _senders(self) -> Sequence[Outbox]:
        """Return the outboxes to send from: only what no courier can see, where there is one."""
        if self._courier() is None:
            return self._outboxes
        self.signals.trouble(f"outbox {self._outboxes[0].path}", None)  # the courier's, if it has any
        return self._outboxes[1:]

    def _courier(self) -> RunningCourier | None:
        """Return the courier that sends to this one's Prefect, if there is one and this one stands by."""
        courier = running_courier(self._settings) if self._stands_by else None
        return courier if courier is not None and courier.prefect == self._here else None

    @property
    def _here(self) -> str | None:
        """Address that it sends to, or will as far as can be said without Prefect."""
        return api_address() if self._api is None else self.api_url

    def _send(self, outbox: Outbox, entry: Entry) -> float:
        """Send `entry` and record what became of it; return how long to wait then, in seconds."""
        began = self._clock()
        try:
            api = self._connected()
            if entry.is_message:
                flow_run = api.tell(entry.submission)
            else:
                # By this machine's clock: the run's own times are by that of whoever took it, and tell replays alone.
                live = outbox.age_s(entry) <= self._settings.live_within_s and entry.delay_s <= _REPLAYED_S
                flow_run = api.create_flow_run(entry.submission, live=live)
        except SubmissionRefused as error:
            logger.error("Run %s: dead letter %s: %s", entry.run_uid, entry.key, error)
            outbox.mark_dead(entry.key, str(error))
        except DeploymentMissing as error:
            self._reminders.tell(entry.deployment, logging.WARNING, "Run %s waits: %s", entry.run_uid, error)
            outbox.give_back(entry.key, str(error), self._settings.missing_deployment_retry_s)
        except PrefectUnavailable as error:
            if not error.submission_specific:
                self.signals.prefect.down(str(error))
                delay_s = self._outage.failed(error, entry.run_uid)
                outbox.give_back(entry.key, str(error), delay_s)
                return delay_s
            wait = self._backoff.failed(entry, self._clock() - began, error)
            if wait.first and not self._outage.under_way:
                logger.warning("Run %s: %s is tried again later, others go on: %s", entry.run_uid, entry.key, error)
            outbox.give_back(entry.key, str(error), wait.delay_s, aside=wait.aside)
            if entry.is_message and not error.server_responded:
                return 0.0  # nobody has answered: whether there is an outage, flow runs find out
        except Exception as error:  # noqa: BLE001 - it goes on, whatever it is
            where = error_and_place(error)
            logger.error("Run %s: %s cannot be sent; trying again later: %s", entry.run_uid, entry.key, where)
            wait = self._backoff.failed(entry, self._clock() - began)
            outbox.give_back(entry.key, error_line(error), wait.delay_s, aside=wait.aside)
            return 0.0
        else:
            self._sent(outbox, entry, flow_run)
        self._outage.succeeded()
        self.signals.prefect.up()
        return 0.0

    def _sent(self, outbox: Outbox, entry: Entry, flow_run: FlowRunRef | None) -> None:
        self._reminders.forget(entry.deployment)
        self._backoff.succeeded(entry)
        if flow_run is None:
            outbox.mark_sent(entry.key)
            self.signals.sent(entry, None)
            logger.info("Run %s failed: Prefect tells people of it (%s)", entry.run_uid, entry.deployment)
            return
        outbox.mark_sent(entry.key, flow_run.id, flow_run.name)
        self.signals.sent(entry, flow_run.id)
        self._preparation.saw(entry)
        made = flow_run.name, flow_run.id, entry.deployment
        logger.info("Run %s: flow run %s (%s) of %s created", entry.run_uid, *made)
