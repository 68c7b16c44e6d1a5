"""Journals on their way to Tiled, several at once."""

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bluesky_prefect.core import Settings, counted, error_line
from bluesky_prefect.courier._backoff import growing_waits
from bluesky_prefect.courier._journal_sender import OF_THIS_MACHINE, JournalSender, RunRefused
from bluesky_prefect.courier._reminders import Reminders
from bluesky_prefect.journal import JournalDirectory, adopt_unsaved_runs, run_uid_of
from bluesky_prefect.metrics import Signals
from bluesky_prefect.tiled_api import answers, is_outage

logger = logging.getLogger(__name__)

# How often it is looked for what was written to journals: a stop is not to wait for long, and a look costs 0.1 ms.
_LOOK_EVERY_S = 0.02
# Pieces of a run that goes on follow one another so fast; 95 % of the documents are to be in Tiled within a second.
_PIECES_EVERY_S = 0.05
# How long at most a run waits for the entry of the one before it, which takes 30 ms.
_ENTRY_S = 10.0
# That a session is gone is seen by its lock alone.
_SILENT_S = 0.2
# Tiled answers a few requests at a time; more would only wait there.
_THREADS = 4
# Up to so many runs, and bytes of all of them, come to Tiled in the order in which they were taken. Of more, mostly the
# newest is first: it does not wait for hours of data.
_IN_ORDER = 20
_IN_ORDER_BYTES = 64_000_000
# A run that fails by itself is tried so often before it is set aside; one that the server alone fails on, more often.
_TRIES = 3
_TRIES_OF_SERVER = 12
_MAX_WAIT_S = 10.0
# With one document TiledWriter may write what it has gathered, some thousands: to a busy server that takes minutes.
_DOCUMENT_S = 3600.0
_UPKEEP_EVERY_S = 60.0
# A first run does not wait for the import of Tiled's client; nor does the start of a stack.
_WARM_UP_S = 4.0
# Less of the disk than this is told of, and journals of runs that Tiled has are deleted at once.
_MIN_FREE = 0.05


class JournalCourier:
    """Takes journals to Tiled: of runs that go on at once; of many that have stopped mostly the newest first.

    While few wait, they come to Tiled in the order in which they were taken, by which Tiled numbers them: -1, -2.

    Parameters
    ----------
    settings : Settings
        Where the journals are, and how long they are kept.
    connect : callable
        Returns the catalog of runs in Tiled, as ``TiledWriter`` wants it; may raise anything.
    delivered : callable, optional
        Is called, on any thread, each time that Tiled has a run.
    signals : Signals, optional
        Where its threads say how they are; see `serve_metrics`.
    """

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[], Any],
        *,
        delivered: Callable[[], None] = lambda: None,
        signals: Signals | None = None,
    ) -> None:
        self._settings = settings
        self._connect = connect
        self._delivered = delivered
        self._signals = signals or Signals()
        self._directory = JournalDirectory(settings.journals_path)
        self._wait_s = growing_waits(settings)
        self._senders: dict[Path, _Task] = {}
        self._ordered: set[Path] = set()
        self._turn = 0
        self._lock = threading.Lock()
        self._came = threading.Condition()
        self._connecting = threading.Lock()
        self._raw: Any = None
        self._outage = _Outage()
        self._arrived = 0
        self._reminders = Reminders(logger, time.monotonic)
        self._finish = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"journal-courier-{number}", daemon=True)
            for number in range(_THREADS)
        ]

    def start(self) -> None:
        """Start its threads."""
        for thread in (*self._threads, threading.Thread(target=self._watch, name="journal-watch", daemon=True)):
            thread.start()

    def close(self, timeout_s: float) -> None:
        """End the threads after what they are at; what is half in Tiled then is written anew by the next courier."""
        self._finish.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def ask_tiled(self) -> None:
        """Ask Tiled whether it is there, and signal that; runs on their way are not concerned."""
        try:
            raw = self._catalog() if self._raw is None else self._raw
            reason = "" if answers(raw) else "Tiled does not answer, or does not have the catalog of runs."
        except Exception as error:  # noqa: BLE001 - whatever it is, Tiled cannot be used
            reason = error_line(error)
        if reason:
            self._signals.tiled.down(reason)
        else:
            self._signals.tiled.up()

    def _watch(self) -> None:
        warm_up_at, upkeep_at, took_s = time.monotonic() + _WARM_UP_S, 0.0, 0.0
        # With thousands of them, looking must not be all that it does.
        while not self._finish.wait(max(_LOOK_EVERY_S, 10 * took_s)):
            began = time.monotonic()
            self._signals.at_work(10 * took_s)
            try:
                self._look()
                took_s = time.monotonic() - began
                if time.monotonic() >= upkeep_at:
                    upkeep_at = time.monotonic() + _UPKEEP_EVERY_S
                    self._keep_up()
                if self._raw is None and time.monotonic() > warm_up_at:
                    warm_up_at = time.monotonic() + _WARM_UP_S
                    with suppress(Exception):  # met again by the first run, and told of then
                        self._catalog()
            except Exception as error:  # noqa: BLE001 - it goes on, whatever it is
                self._reminders.tell("watch", logging.ERROR, "Journals cannot be looked at: %s", error_line(error))

    def _look(self) -> None:
        news, present = False, self._directory.waiting()
        with self._lock:
            for one in reversed(present):  # so that the newest is the last
                if one.path not in self._senders:
                    self._senders[one.path] = self._new_task(one.path)
                news |= self._senders[one.path].grown(one.size)
            for path in set(self._senders) - {one.path for one in present}:
                if not self._senders[path].busy:
                    del self._senders[path]
            if self._senders.keys() != self._ordered:
                self._order()
        if news:
            with self._came:
                self._came.notify_all()

    def _new_task(self, path: Path) -> "_Task":
        def begun() -> None:
            task.has_entry = True
            with self._came:
                self._came.notify_all()

        task = _Task(JournalSender(path, self._deliver, self._go_on, begun))
        return task

    def _order(self) -> None:
        """Have the first copy alone of a run that was recorded several times go: two would undo each other's work."""
        self._ordered = set(self._senders)
        seen: set[str] = set()
        for path in sorted(self._senders, key=lambda one: (len(one.name), one.name)):
            self._senders[path].is_first = (uid := run_uid_of(path)) not in seen
            seen.add(uid)

    def _keep_up(self) -> None:
        adopt_unsaved_runs(self._settings.unsaved_runs_path, self._settings.journals_path)
        self._directory.prune(self._settings.keep_journals_days * 86400, min_free=_MIN_FREE)
        if (free := self._directory.free()) < _MIN_FREE:
            self._reminders.tell(
                "disk",
                logging.WARNING,
                "Only %.1f %% of the disk of %s is free; %s wait there for Tiled. Make room before it is full.",
                100 * free,
                self._directory.path,
                counted(len(self._directory.waiting()), "run"),
            )

    def _work(self) -> None:
        while not self._finish.is_set():
            self._signals.at_work(_PIECES_EVERY_S)
            task = self._next()
            if task is None:
                with self._came:
                    self._came.wait(_PIECES_EVERY_S)
                continue
            try:
                self._go_on()
                self._step(task)
            except Exception as error:  # noqa: BLE001 - it goes on, whatever it is
                logger.error("%s: the courier met an error it does not know; it goes on: %s", task.sender.label, error)
                task.due = time.monotonic() + _MAX_WAIT_S
            finally:
                task.busy = False

    def _go_on(self) -> None:
        self._signals.at_work(_DOCUMENT_S)

    def _next(self) -> "_Task | None":
        """Return what is to be done next, which is nobody else's from then on."""
        now = time.monotonic()
        with self._lock:
            if now < self._outage.until:
                return None
            due = [task for task in self._senders.values() if task.is_first and not task.busy and task.due <= now]
            if not due:
                return None
            self._turn += 1
            # Those that go on are asked often, and mostly have nothing; every other turn is for those that wait.
            going_on = [task for task in due if task.begun]
            waiting = [task for task in due if not task.begun]
            in_order = self._are_few()
            if in_order and self._is_one_about_to_begin(now):
                waiting = []
            if going_on and (self._turn % 2 or not waiting):
                task = min(going_on, key=lambda one: one.due)
            elif not waiting:
                return None
            elif self._turn % 4 == 0:
                task = waiting[0]
            else:
                # Those that fail must not take all turns.
                task = min(waiting, key=lambda one: one.failures > 0) if in_order else waiting[-1]
            task.has_entry &= task.begun
            # The first one waits for the connection, and the others for it.
            task.busy, task.news, task.taken = True, False, now if self._raw is not None else math.inf
            return task

    def _are_few(self) -> bool:
        """Tell whether so few runs wait that their order can be kept."""
        sizes = [task.size for task in self._senders.values() if task.is_first and not task.begun and not task.failures]
        return len(sizes) <= _IN_ORDER and sum(sizes) <= _IN_ORDER_BYTES

    def _is_one_about_to_begin(self, now: float) -> bool:
        """Tell whether a run is at work that Tiled has no entry of yet, and will have in a moment."""
        return any(
            task.busy and not task.begun and not task.failures and not task.has_entry and now - task.taken < _ENTRY_S
            for task in self._senders.values()
        )

    def _step(self, task: "_Task") -> None:
        try:
            raw = self._catalog()
        except Exception as error:  # noqa: BLE001 - whatever it is, Tiled cannot be used
            self._away(error)
            return
        task.taken = time.monotonic()
        try:
            done = task.sender.step(raw)
        except FileNotFoundError:
            task.due = time.monotonic() + _SILENT_S  # somebody has moved it
        except (OSError, MemoryError) as error:
            task.begun = False
            if isinstance(error, OSError) and error.errno not in OF_THIS_MACHINE:
                self._failed(task, error, _TRIES)
                return
            task.due = time.monotonic() + _MAX_WAIT_S
            self._reminders.tell("machine", logging.ERROR, "%s cannot be read now: %s", task.sender.label, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            task.begun = False
            if not answers(raw):
                self._away(error)
            elif is_outage(error):
                self._failed(task, error, _TRIES_OF_SERVER, alone=True)
            else:
                self._failed(task, error, _TRIES)
        else:
            task.begun = True
            if task.sender.asked:  # of a run without news Tiled is not asked
                task.failures = 0
                self._back()
            task.stepped = time.monotonic()
            task.due = task.stepped + (_PIECES_EVERY_S if task.sender.asked or task.news else _SILENT_S)
            if done:
                if not task.sender.is_delivered:
                    self._deliver(task.sender)
                # Its journal is not there any more; another one of its name may come.
                self._forget(task)

    def _catalog(self) -> Any:
        with self._connecting:
            if self._raw is None:
                self._raw = self._connect()
            return self._raw

    def _deliver(self, sender: JournalSender) -> None:
        self._directory.deliver(sender.path)
        self._arrived += 1
        if sender.stopped_at is None:
            logger.warning("%s: its session ended before the run did; its documents are in Tiled", sender.label)
        else:
            logger.info("%s is in Tiled, %.1f s after its stop", sender.label, time.time() - sender.stopped_at)
        self._delivered()

    def _failed(self, task: "_Task", error: Exception, tries: int, *, alone: bool = False) -> None:
        """Try a run that has a trouble of its own again, or set it aside; if `alone`, once others have arrived."""
        reason = str(error) if isinstance(error, RunRefused) else error_line(error)
        if task.failures == 0:
            task.arrived_before = self._arrived
        task.failures += 1
        if task.failures < tries or (alone and self._arrived == task.arrived_before):
            task.due = time.monotonic() + min(self._wait_s(task.failures), _MAX_WAIT_S)
            # At a Tiled whose disk is full, say, nothing else may be told.
            level = logging.WARNING if task.failures == tries else logging.INFO
            logger.log(level, "%s is tried again: %s", task.sender.label, reason)
            return
        self._directory.refuse(task.sender.path, reason)
        self._forget(task)
        logger.error(
            "%s is set aside, others go on: %s. Once the cause is fixed: bluesky-prefect journal retry %s",
            task.sender.label,
            reason,
            run_uid_of(task.sender.path)[:8],
        )

    def _forget(self, task: "_Task") -> None:
        with self._lock:
            self._senders.pop(task.sender.path, None)

    def _away(self, error: Exception) -> None:
        """Have all runs wait for Tiled."""
        self._signals.tiled.down(error_line(error))
        with self._lock:
            # Those that were at work beside it meet the same outage.
            if time.monotonic() < self._outage.until:
                return
            outage, waiting = self._outage, len(self._senders)
            outage.failures += 1
            outage.until = time.monotonic() + min(self._wait_s(outage.failures), _MAX_WAIT_S)
            told, outage.told = outage.told, True
        if not told:
            logger.warning(
                "Tiled is away; documents of %s are kept here: %s", counted(waiting, "run"), error_line(error)
            )

    def _back(self) -> None:
        with self._lock:
            told = self._outage.told
            self._outage = _Outage()
        self._signals.tiled.up()
        if told:
            logger.warning("Tiled answers again; writing what waits")


class _Task:
    """A journal, when it is to be looked at next, by the clock that never jumps, and whether somebody is at it."""

    def __init__(self, sender: JournalSender) -> None:
        self.sender = sender
        self.due = 0.0
        self.stepped = 0.0
        self.size = 0
        # Whether it has grown since somebody began to look at it.
        self.news = False
        self.busy = False
        self.taken = 0.0
        # Of the journals of one run.
        self.is_first = True
        # Whether Tiled has its entry; it gets another one if it is written anew.
        self.has_entry = False
        # Whether a step of it has ended without an error since the last one.
        self.begun = False
        self.failures = 0
        # How many runs had arrived when it failed first.
        self.arrived_before = 0

    def grown(self, size: int) -> bool:
        """Take note of the size of the journal; return whether it has grown, and is looked at soon therefore."""
        if size == self.size:
            return False
        self.size, self.news = size, True
        if not self.failures:
            self.due = min(self.due, self.stepped + _PIECES_EVERY_S)
        return True


class _Outage:
    """An outage of Tiled: how often it was met, until when nobody knocks, and whether it was told of."""

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0
        self.told = False
