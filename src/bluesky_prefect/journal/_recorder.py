"""A RunEngine callback that puts each document on disk."""

import atexit
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bluesky_prefect.core import ToldOfForks, get_settings, tell_of_forks, uid_text
from bluesky_prefect.journal._journal import AlreadyRecorded, Journal

logger = logging.getLogger(__name__)

# The document that each kind of document names, which came before it.
_NAMED_BY = {
    "descriptor": "run_start",
    "stop": "run_start",
    "event": "descriptor",
    "event_page": "descriptor",
    "resource": "run_start",
    "datum": "resource",
    "datum_page": "resource",
    "stream_resource": "run_start",
    "stream_datum": "stream_resource",
}
_SYNC_EVERY_S = 1.0
# Runs without a stop document (a killed RunEngine upstream of a dispatcher) must not pile up.
_MAX_OPEN_RUNS = 1000
# The last chance of what the disk refuses, when a session ends.
_CLOSE_TIMEOUT_S = 20.0


class RunRecorder(ToldOfForks):
    """A callback for ``RE.subscribe`` that puts the documents of each run into a file, and never raises.

    A document is with the operating system when this returns, so that the death of the session loses nothing. It is on
    the disk when the stop of its run returns, a moment after the start, and a second later in between.

    Parameters
    ----------
    directory : Path, optional
        Where the files go. Without it, the settings say.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._begin()
        tell_of_forks(self)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document."""
        try:
            self._take(name, dict(doc))
        except Exception:
            # An exception in a callback aborts the plan.
            logger.exception("A %s document cannot be recorded", name)

    def close(self) -> None:
        """Bring to the disk what only memory holds, if that is possible; done at exit anyway."""
        atexit.unregister(self.close)
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT_S)
        self._stopped += [journal for journal in self._open() if journal.path is None or not journal.sync()]
        deadline = time.monotonic() + _CLOSE_TIMEOUT_S
        while (left := self._save_stopped()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for journal in left:
            logger.error("Run %s: the disk took not all of its documents: the rest is lost.", journal.run_uid)
            journal.close()

    def after_fork(self, *, in_child: bool) -> None:
        """Let go of all files in a child: the runs go on in its parent."""
        if in_child:
            for journal in (*self._open(), *self._stopped):
                journal.let_go()
            self._begin()

    def _begin(self) -> None:
        # By the uid of each document that others name.
        self._journals: dict[str, tuple[Journal, ...]] = {}
        self._stopped: list[Journal] = []
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self._start(doc)
            return
        named: Any = doc.get(_NAMED_BY.get(name, ""))
        # A resource of old need not say of which run it is.
        journals = self._open() if name == "resource" and named is None else self._journals.get(named, ())
        for journal in journals:
            journal.append(name, doc)
        if name == "stop":
            self._end(*journals)
        elif name in ("descriptor", "resource", "stream_resource"):
            self._journals[doc["uid"]] = journals

    def _start(self, doc: dict[str, Any]) -> None:
        if doc["uid"] in self._journals:
            return
        if len(open_journals := self._open()) >= _MAX_OPEN_RUNS:
            oldest = open_journals[0]
            logger.warning("Run %s has no stop document and %d runs began since", oldest.run_uid, _MAX_OPEN_RUNS)
            self._end(oldest)
        try:
            journal = Journal(self._directory or get_settings().journals_path, uid_text(doc["uid"]))
        except AlreadyRecorded:
            logger.debug("Run %s is recorded by another recorder already", doc["uid"])
            return
        self._journals[doc["uid"]] = (journal,)
        journal.append("start", doc)
        self._wake.set()  # the thread has it on the disk at once; a plan does not wait for that
        if self._thread is None:
            arguments = (self._closing, self._wake)
            thread = threading.Thread(target=self._sync, args=arguments, name="journal-sync", daemon=True)
            atexit.register(self.close)
            try:
                thread.start()
            except RuntimeError as error:  # no thread can be started now; the next run tries again
                logger.warning("Until the next run begins, documents reach the disk at a run's stop: %s", error)
                return
            self._thread = thread

    def _end(self, *ended: Journal) -> None:
        self._journals = {
            uid: left for uid, of in self._journals.items() if (left := tuple(one for one in of if one not in ended))
        }
        for journal in ended:
            if journal.sync():
                journal.close()
            else:
                self._stopped.append(journal)

    def _open(self) -> tuple[Journal, ...]:
        return tuple({id(one): one for of in list(self._journals.values()) for one in of}.values())

    def _sync(self, closing: threading.Event, wake: threading.Event) -> None:
        while not closing.is_set():
            try:
                for journal in self._open():
                    journal.sync()
                self._save_stopped()
            except Exception:  # it goes on, whatever it is
                logger.exception("Journals cannot be brought to the disk now")
            wake.wait(_SYNC_EVERY_S)
            wake.clear()

    def _save_stopped(self) -> list[Journal]:
        """Bring to the disk what it has refused of runs that have stopped; return the runs that it still refuses."""
        for journal in list(self._stopped):
            if journal.sync():
                journal.close()
                self._stopped.remove(journal)
        return self._stopped
