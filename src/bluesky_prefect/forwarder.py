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
from typing import Protocol

from bluesky_prefect.at_fork import tell_of_forks
from bluesky_prefect.entry import Entry
from bluesky_prefect.exceptions import DeploymentMissing, OutboxError, PrefectUnavailable, SubmissionRefused
from bluesky_prefect.outage import Outage
from bluesky_prefect.outbox import PRUNED_AT_ONCE, Outbox
from bluesky_prefect.prefect_api import FlowRunRef, PrefectApi
from bluesky_prefect.settings import Settings
from bluesky_prefect.submission import Submission
from bluesky_prefect.texts import error_and_place, error_line

logger = logging.getLogger(__name__)

# How often the outbox is looked at for what another, ended process has left in it.
_POLL_S = 2.0
# A session's start-up is over by then, and importing Prefect disturbs nobody.
_WARM_UP_S = 5.0
# After this many answers of "internal server error" to one submission, the trouble is taken to lie in it.
_ATTEMPTS_IN_ORDER = 5
# Enough for importing Prefect and a few requests, at the end of a short script.
CLOSE_TIMEOUT_S = 10.0
_SILENT_S = 2.0
_PRUNE_EVERY_S = 3600.0
_REMIND_EVERY_S = 3600.0
# Submissions moved from memory to disk in one step, each with an fsync.
_RESCUED_AT_ONCE = 100


class FlowRunApi(Protocol):
    """What creates flow runs; see `PrefectApi`."""

    def create_flow_run(self, submission: Submission) -> FlowRunRef:
        """Create the flow run of a submission, or find the one created before."""
        ...

    def check(self, deployment: str) -> None:
        """Raise what would keep the submissions of a deployment waiting."""
        ...

    def prepare_notifications(self, notices: Sequence[str]) -> None:
        """Have people told of the ends of flow runs, as far as possible; raise nothing."""
        ...


class Forwarder:
    """Takes submissions from outboxes to Prefect, on a thread of its own.

    Outages are retried for ever, with exponential back-off and jitter; a missing deployment is retried slowly; a
    submission that Prefect refuses becomes a dead letter. Log messages tell the beginning and the end of an outage,
    not each try.

    Parameters
    ----------
    outboxes : sequence of Outbox
        The first is the durable one. What is in the others is moved to it when it can be, and sent first: it would be
        lost with the session.
    settings : Settings
        Time-outs and waits.
    deployments : sequence of str, optional
        Asked for once, a few seconds after the start: what would keep their first runs waiting is logged then.
    notices : sequence of str, optional
        What Prefect is to tell people of; seen to a few seconds after the start, and now and then.
    connect : callable, optional
        Makes the context manager whose value creates flow runs.
    clock : callable, optional
        Gives a time in seconds that never jumps.
    """

    def __init__(
        self,
        outboxes: Sequence[Outbox],
        settings: Settings,
        *,
        deployments: Sequence[str] = (),
        notices: Sequence[str] = (),
        connect: Callable[[], AbstractContextManager[FlowRunApi]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outboxes = outboxes
        self._unchecked = list(dict.fromkeys(deployments))
        self._notices = notices
        self._settings = settings
        self._connect = connect or (lambda: PrefectApi(settings.request_timeout_s))
        self._clock = clock
        self._outage = Outage(settings, clock, logger)
        self._resources = ExitStack()
        self._api: FlowRunApi | None = None
        self._reminded: dict[str, float] = {}
        self._pruned_at: float | None = None
        self._rescue_at = 0.0
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
            self._sleeps = False
            with suppress(RuntimeError):  # another thread was first
                self._thread.start()
        self._wake.set()

    def before_fork(self) -> None:
        """Nothing has to stand still: what the thread does at that moment is the parent's."""

    def after_fork(self, *, in_child: bool) -> None:
        """Begin anew in a child, which has no thread: with one that starts when there is something to send.

        The parent's connection to Prefect is neither used nor closed.
        """
        if in_child and not self._finish.is_set():
            self._parents = (self._resources, self._api)
            self._resources, self._api = ExitStack(), None
            self._outage = Outage(self._settings, self._clock, logger)
            # Anew, since the parent's thread may have been in the middle of them.
            self._wake, self._finish = threading.Event(), threading.Event()
            self._thread, self._sleeps = self._new_thread(), True

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Send what can be sent now, then end the thread.

        Parameters
        ----------
        timeout_s : float
            How long to wait for that, in seconds. What is not sent by then stays in the outbox.

        Returns
        -------
        bool
            Whether the thread has ended.
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
            self._tell_what_waits()
        return not self._thread.is_alive()

    def step(self) -> float:
        """Send one submission, if one is due, and return how long to wait before the next step, in seconds.

        Whatever goes wrong is logged and the submission kept; nothing is raised.
        """
        try:
            self._rescue()
            self._prune()
            for outbox in reversed(self._outboxes):
                entry = self._take(outbox)
                if entry is not None:
                    return self._send(outbox, entry)
        except OutboxError as error:
            # What Prefect has accepted meanwhile is found again by its idempotency key.
            self._remind("outbox", logging.ERROR, "%s What was being sent is sent again when it works again.", error)
            return self._settings.retry_first_s
        except Exception as error:  # noqa: BLE001 - it goes on, whatever it is
            logger.error("The forwarder met an error it does not know; it goes on: %s", error_and_place(error))
            return self._settings.retry_first_s
        return _POLL_S

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="bluesky-prefect-forwarder", daemon=True)

    def _run(self) -> None:
        idle_since = self._clock()
        while not self._finish.is_set():
            self._wake.clear()
            if (wait_s := self.step()) == 0.0:
                continue
            if self._outage.under_way:
                self._finish.wait(wait_s)  # in an outage a new run is no reason to knock again
                continue  # and the warm-up would tell once more what the attempt has told
            self._wake.wait(wait_s)
            if (self._api is None or self._unchecked) and self._clock() - idle_since > _WARM_UP_S:
                self._warm_up()
            elif self._api is not None:
                self._api.prepare_notifications(self._notices)
        self._drain()
        self._resources.close()

    def _drain(self) -> None:
        """Send what can be sent by the deadline; a server that is busy is asked again, one that is away is not."""
        self._rescue_at = 0.0
        self._rescue()
        if self._outage.under_way and not self._outage.busy:
            return
        while (wait_s := self.step()) == 0.0 or (self._outage.under_way and self._outage.busy):
            if self._clock() + wait_s > self._deadline:
                return
            time.sleep(min(wait_s, 0.5))

    def _tell_what_waits(self) -> None:
        durable, *fallbacks = self._outboxes
        try:
            waiting = durable.counts().waiting
        except OutboxError as error:
            logger.debug("Not counted: %s", error)
        else:
            if waiting:
                logger.warning(
                    "Still to be sent: %d (in %s); the next session on this outbox sends them", waiting, durable.path
                )
        for outbox in fallbacks:
            if left := outbox.oldest_unsent(_RESCUED_AT_ONCE):
                logger.error(
                    "Neither sent nor on disk, and lost with this session: what was to be started on the runs %s. "
                    "The runs are in Tiled: start it with 'bluesky-prefect submit UID...'",
                    ", ".join(dict.fromkeys(entry.run_uid for entry in left)),
                )

    def _warm_up(self) -> None:
        """Import Prefect, and ask it once for each deployment: a wrong key is told before the first scan's end."""
        deployments, self._unchecked = self._unchecked, []
        try:
            api = self._connected()
            for deployment in deployments:
                try:
                    api.check(deployment)
                except DeploymentMissing as error:
                    self._remind(deployment, logging.WARNING, "Runs will wait: %s", error)
            api.prepare_notifications(self._notices)
        except PrefectUnavailable as error:
            level = logging.INFO if error.passing else logging.ERROR
            self._remind("start", level, "Runs will wait in the outbox: %s", error)
        except Exception as error:  # noqa: BLE001 - it goes on, whatever it is
            self._remind("start", logging.ERROR, "Prefect cannot be asked for deployments: %s", error_and_place(error))

    def _connected(self) -> FlowRunApi:
        if self._api is None:
            try:
                self._api = self._resources.enter_context(self._connect())
            except PrefectUnavailable:
                raise
            except Exception as error:
                # Importing Prefect reads its settings, and packages of all kinds.
                raise PrefectUnavailable(
                    f"Prefect cannot be imported: {error_and_place(error)}. 'prefect version' may say more.",
                    passing=False,
                ) from error
        return self._api

    def _take(self, outbox: Outbox) -> Entry | None:
        try:
            return outbox.take()
        except OutboxError as error:
            self._remind("outbox", logging.ERROR, "%s Runs are kept in memory until it works again.", error)
            return None

    def _send(self, outbox: Outbox, entry: Entry) -> float:
        """Send `entry` and record what became of it; return how long to wait then, in seconds."""
        try:
            flow_run = self._connected().create_flow_run(entry.submission)
        except SubmissionRefused as error:
            logger.error("Run %s: dead letter %s: %s", entry.run_uid, entry.key, error)
            outbox.mark_dead(entry.key, str(error))
        except DeploymentMissing as error:
            self._remind(entry.deployment, logging.WARNING, "Run %s waits: %s", entry.run_uid, error)
            outbox.give_back(entry.key, str(error), self._settings.missing_deployment_retry_s)
        except PrefectUnavailable as error:
            return self._back_off(outbox, entry, error)
        except Exception as error:  # noqa: BLE001 - it goes on, whatever it is
            where = error_and_place(error)
            logger.error("Run %s: %s cannot be sent; trying again later: %s", entry.run_uid, entry.key, where)
            trouble = PrefectUnavailable(error_line(error), about_submission=True)
            return self._back_off(outbox, entry, trouble)
        else:
            self._sent(outbox, entry, flow_run)
        self._outage.over()
        return 0.0

    def _sent(self, outbox: Outbox, entry: Entry, flow_run: FlowRunRef) -> None:
        outbox.mark_sent(entry.key, flow_run.id, flow_run.name)
        self._reminded.pop(entry.deployment, None)
        logger.info(
            "Run %s: flow run %s (%s) of %s created",
            entry.run_uid,
            flow_run.name,
            flow_run.id,
            entry.deployment,
        )

    def _back_off(self, outbox: Outbox, entry: Entry, error: PrefectUnavailable) -> float:
        delay_s = self._outage.met(error, entry.run_uid)
        aside = error.about_submission and entry.attempts + 1 >= _ATTEMPTS_IN_ORDER
        outbox.give_back(entry.key, str(error), delay_s, aside=aside)
        return delay_s

    def _rescue(self) -> None:
        """Move what is in memory and not sent to the disk, once the disk takes it again."""
        durable, *fallbacks = self._outboxes
        if self._clock() < self._rescue_at:
            return
        for outbox in fallbacks:
            for _ in range(_RESCUED_AT_ONCE):
                # One by one: a refusal costs the same whatever waits behind it.
                if not (found := outbox.oldest_unsent(1)):
                    break
                [entry] = found
                try:
                    durable.put(entry.submission, dead=entry.reason if entry.state == "dead" else None)
                except OutboxError:
                    # Each try may hold up the RunEngine's own by as long as a locked file is waited for.
                    self._rescue_at = self._clock() + _POLL_S
                    return
                outbox.discard(entry.key)
                logger.warning("Run %s: the outbox takes it again; it is on disk now", entry.run_uid)

    def _prune(self) -> None:
        durable, *fallbacks = self._outboxes
        for outbox in fallbacks:
            outbox.prune(0.0)  # nobody looks there for what was sent
        now = self._clock()
        if self._pruned_at is not None and now - self._pruned_at < _PRUNE_EVERY_S:
            return
        try:
            if durable.prune(self._settings.keep_sent_days) < PRUNED_AT_ONCE:
                self._pruned_at = now
        except OutboxError as error:
            self._pruned_at = now
            logger.debug("Not pruned: %s", error)

    def _remind(self, topic: str, level: int, message: str, *values: object) -> None:
        """Log a trouble that lasts, once an hour."""
        now = self._clock()
        last = self._reminded.get(topic)
        if last is None or now - last >= _REMIND_EVERY_S:
            self._reminded[topic] = now
            logger.log(level, message, *values)
