"""Offsets of a Kafka partition: how far a group may be said to have come."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

# Of more runs the callback remembers no start document either, of which half have not stopped.
MOST_BEGUN = 2000


@dataclass
class PartitionOffsets:
    """The offsets of one partition.

    A run is done with once its stop document is in the outbox. Until then the offset of its start document is the most
    that may be committed: the next process needs that document too.

    Attributes
    ----------
    next : int
        The offset after the last message that was handled.
    clock : callable
        Gives a time in seconds that never jumps: that of messages is a publisher's.
    begun : dict
        Offset of the start documents of runs that have not stopped, and when they were read, by the runs' uids.
    """

    next: int
    clock: Callable[[], float] = time.monotonic
    begun: dict[str, tuple[int, float]] = field(default_factory=dict)

    def handled(self, offset: int) -> None:
        """Take note of a message that need not be read again for its own sake."""
        self.next = offset + 1

    def start(self, uid: str, offset: int) -> None:
        """Take note of a run's start document."""
        self.begun.setdefault(uid, (offset, self.clock()))
        if len(self.begun) > MOST_BEGUN:
            del self.begun[next(iter(self.begun))]

    def stop(self, uid: str) -> None:
        """Take note of a run's stop document."""
        self.begun.pop(uid, None)

    def may_commit(self, wait_s: float) -> int:
        """Return the offset to begin at again; a run without a stop document is waited for that long, in seconds."""
        now = self.clock()
        self.begun = {uid: known for uid, known in self.begun.items() if now - known[1] <= wait_s}
        return min([self.next, *(offset for offset, _ in self.begun.values())])
