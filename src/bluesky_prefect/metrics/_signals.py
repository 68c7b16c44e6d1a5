"""Signals of the threads that take runs to Tiled and Prefect, for whoever watches their process."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bluesky_prefect.outbox import Entry

# A request to a busy server, or the import of Prefect from a slow disk, may take minutes; beyond that a thread hangs.
_SLACK_S = 300.0

SentListener = Callable[[Entry, str | None], None]


@dataclass(frozen=True)
class Contact:
    """The last contact with a server, by whoever asked it.

    Attributes
    ----------
    is_up : bool
        Whether it could.
    since : float
        When that changed last, in seconds since the epoch.
    reason : str
        Why it could not.
    """

    is_up: bool
    since: float
    reason: str = ""


class Reachability:
    """A server as those find it who ask it; `last` is None until somebody has.

    The clock gives the time in seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.last: Contact | None = None

    def up(self) -> None:
        """Take note that it has answered."""
        if self.last is None or not self.last.is_up:
            self.last = Contact(True, self._clock())

    def down(self, reason: str) -> None:
        """Take note that it could not be used, and why."""
        since = self._clock() if self.last is None or self.last.is_up else self.last.since
        self.last = Contact(False, since, reason)


class Signals:
    """The words of the threads of a process that sends, about their work.

    There is no lock, which a thread might hold when the process forks; each operation on a dictionary is one. The clock
    gives a time in seconds that never jumps.

    Attributes
    ----------
    prefect, tiled : Reachability
        Both servers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.prefect, self.tiled = Reachability(), Reachability()
        self._at_work: dict[str, tuple[threading.Thread, float]] = {}
        self._troubles: dict[str, str] = {}
        self._listeners: list[SentListener] = []

    def at_work(self, wait_s: float) -> None:
        """Say that the calling thread is at work, and comes round again within `wait_s` seconds."""
        thread = threading.current_thread()
        self._at_work[thread.name] = thread, self._clock() + wait_s

    def trouble(self, subject: str, reason: str | None) -> None:
        """Say what keeps this process from its work, in one sentence; None once that is over."""
        if reason is None:
            self._troubles.pop(subject, None)
        else:
            self._troubles[subject] = reason

    def sent(self, entry: Entry, flow_run_id: str | None) -> None:
        """Say that Prefect has accepted a submission, and which flow run it made of it, if any."""
        for listener in self._listeners:
            listener(entry, flow_run_id)

    def listen(self, listener: SentListener) -> None:
        """Have `listener` called, on the thread that sends, with each submission that Prefect accepts."""
        self._listeners.append(listener)

    def problems(self) -> list[str]:
        """Return what keeps this process from its work, a sentence each; that a server is away does not."""
        now, found = self._clock(), []
        for name, (thread, back_by) in list(self._at_work.items()):
            if not thread.is_alive():
                found.append(f"The thread {name} has ended.")
            elif now - back_by > _SLACK_S:
                found.append(f"The thread {name} has hung for {now - back_by:.0f} s.")
        return [*found, *self._troubles.values()]
