"""Runs that stopped in this process, and which workflows each of them started."""

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

from bluesky_prefect.core import HeldLock, tell_of_forks
from bluesky_prefect.outbox._outbox import Outbox

T = TypeVar("T")

# Plans ask about runs that they have just done.
_MOST = 1000


@dataclass(frozen=True)
class StoppedRun:
    """Workflows of a run that stopped in this process.

    No `Run`: it tells of workflows, and holds no documents.

    Attributes
    ----------
    uid : str
        The run's.
    name : str
        What flow runs about it are called.
    opted_out : bool
        Whether it asked for no workflow at all.
    started : tuple of str
        Names of the workflows that were started on it.
    sent : tuple of str
        Of these, the ones that were put in an outbox to be sent: no dead letters.
    known : tuple of str
        Names of all the workflows that there are.
    outboxes : tuple of Outbox
        Where their submissions are.
    number : int
        The runs that stopped before it in this process.
    stopped : float
        When that was, in seconds since the epoch.
    """

    uid: str
    name: str
    opted_out: bool
    started: tuple[str, ...]
    sent: tuple[str, ...]
    known: tuple[str, ...]
    outboxes: tuple[Outbox, ...]
    number: int
    stopped: float = field(default_factory=time.time)


class StoppedRuns:
    """The last runs that stopped in this process; what several callbacks say of one run is put together."""

    def __init__(self) -> None:
        self._runs: dict[str, StoppedRun] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._fork = HeldLock(self._lock)
        tell_of_forks(self._fork)

    def note(
        self,
        uid: str,
        *,
        name: str = "",
        opted_out: bool,
        started: Sequence[str],
        sent: Sequence[str] | None = None,
        known: Sequence[str],
        outboxes: Sequence[Outbox],
    ) -> None:
        """Remember that a run stopped."""
        with self._lock:
            before = self._runs.pop(uid, None)
            self._runs[uid] = StoppedRun(
                uid,
                name=name or uid,
                opted_out=opted_out,
                started=_merged(before.started if before else (), started),
                sent=_merged(before.sent if before else (), started if sent is None else sent),
                known=_merged(before.known if before else (), known),
                outboxes=_merged(before.outboxes if before else (), outboxes),
                number=next(self._numbers),
            )
            if len(self._runs) > _MOST:
                del self._runs[next(iter(self._runs))]

    def find(self, uid: str) -> StoppedRun | None:
        """Return what is known of a run; None if it did not stop here, or long ago."""
        with self._lock:
            return self._runs.get(uid)

    def after(self, number: int) -> list[StoppedRun]:
        """Return the runs that stopped after the one with that number, the first one first."""
        with self._lock:
            newest_first = takewhile(lambda run: run.number > number, reversed(self._runs.values()))
            return list(newest_first)[::-1]

    def last(self) -> StoppedRun | None:
        """Return the run that stopped last; None if none has."""
        with self._lock:
            return self._runs[next(reversed(self._runs))] if self._runs else None


def _merged(one: Sequence[T], other: Sequence[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys([*one, *other]))


stopped_runs = StoppedRuns()
"""Those of this process: a plan has no other way to the callbacks that its RunEngine calls."""
