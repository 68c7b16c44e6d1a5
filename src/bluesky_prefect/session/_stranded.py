"""Runs that neither Tiled nor the disk took: they wait in this session's memory until one of the two does."""

import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Callable

from bluesky_prefect.core import ToldOfForks, tell_of_forks
from bluesky_prefect.session._spool import Spool
from bluesky_prefect.session._tiled import TiledConnection
from bluesky_prefect.tiled_api import write_run

logger = logging.getLogger(__name__)

RETRY_S = 5.0
# A session ends within this, also while Tiled is slow; it is the last chance of these runs.
CLOSE_TIMEOUT_S = 20.0
REMEDY = "'bluesky-prefect reconcile --submit' writes them to it"


class StrandedRuns(ToldOfForks):
    """Runs in memory, and a thread, there only while there are any, that brings them to the disk or to Tiled.

    `tell` is told in one line what becomes of each.
    """

    def __init__(self, connection: TiledConnection, tell: Callable[[str], None]) -> None:
        self._connection = connection
        self._tell = tell
        self._begin()
        tell_of_forks(self)

    def after_fork(self, *, in_child: bool) -> None:
        """Begin without runs in a child: two who write one file would spoil it."""
        if in_child:
            self._begin()

    def _begin(self) -> None:
        self._runs: list[tuple[str, Spool]] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, label: str, spool: Spool) -> None:
        """Take a run that has stopped; from now on its spool is this object's."""
        with self._lock:
            self._runs.append((label, spool))
            if self._thread is None:
                atexit.register(self.close)
                self._thread = threading.Thread(target=self._work, name="stranded-runs", daemon=True)
                self._thread.start()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Try for the last time, for `timeout_s` at most, and tell which runs are lost."""
        atexit.unregister(self.close)
        self._closing.set()
        deadline = time.monotonic() + timeout_s
        if self._thread is not None:
            self._thread.join(timeout_s)
        while self._runs and time.monotonic() < deadline:
            self._rescue()
            time.sleep(0.2 if self._runs else 0.0)
        for label, _ in self._runs:
            self._tell(f"{label}: neither Tiled nor the disk took its documents before this session ended: lost.")

    def _work(self) -> None:
        with contextlib.suppress(ImportError):  # the disk may take them all the same
            # At the end of the session it could not be imported any more.
            import bluesky_tiled_plugins  # noqa: F401

        while not self._closing.wait(RETRY_S):
            self._rescue()
            with self._lock:
                if not self._runs:
                    self._thread = None
                    return

    def _rescue(self) -> None:
        with self._lock:
            runs = list(self._runs)
        saved = [run for run in runs if self._save(*run)]
        with self._lock:
            self._runs = [run for run in self._runs if run not in saved]

    def _save(self, label: str, spool: Spool) -> bool:
        if path := spool.keep():
            self._tell(f"{label}: its documents are kept in {path} now; {REMEDY}")
            return True
        try:
            if self._connection.problem():
                return False
            write_run(list(spool.documents()), self._connection.raw())
        except Exception as error:  # whatever it is, the run waits on
            logger.debug("%s cannot be written to Tiled yet", label, exc_info=error)
            return False
        spool.discard()
        self._tell(f"{label} is in Tiled now")
        return True
