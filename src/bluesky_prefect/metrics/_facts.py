"""Facts that are on this machine's disk: submissions, journals, and room for more."""

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bluesky_prefect.core import OutboxError, write_problem
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.outbox import Outbox, Unsent

# Several who ask at the same time, or more often than anything changes, cost no more than one.
_AGE_S = 1.0


@dataclass(frozen=True)
class JournalFacts:
    """Journals on their way to Tiled, and those that it refuses.

    Attributes
    ----------
    waiting, size : int
        How many are on their way, those of runs that go on among them, and how many bytes these have.
    oldest : float or None
        When the one was written to that nobody has written to for longest, in seconds since the epoch.
    refused : int
        How many are set aside.
    """

    waiting: int
    size: int
    oldest: float | None
    refused: int


@dataclass(frozen=True)
class Facts:
    """Facts of one moment.

    Attributes
    ----------
    unsent : tuple of Unsent
        What waits or is dead in the outboxes.
    outbox_problem : str or None
        Why an outbox cannot be read.
    journals : JournalFacts or None
        None in a process that has no journals.
    disk : (int, int) or None
        How many bytes of the disk are free, and how many it has; None if it cannot be asked.
    disk_problem : str
        Why nothing can be written to the state directory; empty if it can.
    """

    unsent: tuple[Unsent, ...]
    outbox_problem: str | None
    journals: JournalFacts | None
    disk: tuple[int, int] | None
    disk_problem: str = ""

    def count(self, state: str) -> int:
        """Return how many submissions are in a state."""
        return sum(one.count for one in self.unsent if one.state == state)


class FactsReader:
    """Reads what is on the disk, at most once a second.

    It has connections of its own: who sends never waits for it. The clock gives a time in seconds that never jumps.
    """

    def __init__(
        self,
        outboxes: Sequence[Outbox],
        state_directory: Path,
        journals: JournalDirectory | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # What is in memory alone cannot be read in another way.
        self._outboxes = [Outbox(one.path) if one.path else one for one in outboxes]
        self._own = [one for one in self._outboxes if one.path]
        self._state_directory = state_directory
        self._journals = journals
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._facts: Facts | None = None

    def read(self) -> Facts:
        """Return what is there now, or was a moment ago."""
        with self._lock:
            if self._facts is None or self._clock() - self._read_at > _AGE_S:
                self._facts = self._read()
                self._read_at = self._clock()
            return self._facts

    def close(self) -> None:
        """Close the connections."""
        for outbox in self._own:
            outbox.close()

    def _read(self) -> Facts:
        unsent: list[Unsent] = []
        problem = None
        for outbox in self._outboxes:
            try:
                unsent += outbox.unsent_by_deployment()
            except OutboxError as error:
                problem = str(error)
        disk, disk_problem = None, ""
        with suppress(OSError):
            disk_problem = write_problem(self._state_directory)
            usage = shutil.disk_usage(self._state_directory)
            disk = usage.free, usage.total
        return Facts(tuple(unsent), problem, self._read_journals(), disk, disk_problem)

    def _read_journals(self) -> JournalFacts | None:
        if self._journals is None:
            return None
        waiting = self._journals.waiting()
        oldest = min((one.written for one in waiting), default=None)
        return JournalFacts(len(waiting), sum(one.size for one in waiting), oldest, len(self._journals.refused()))
