"""Offsets of a Kafka partition: how far a group may be said to have come."""

from dataclasses import dataclass, field


@dataclass
class PartitionOffsets:
    """The offsets of one partition.

    A run is done with once its stop document is in the outbox. Until then the offset of its start document is the most
    that may be committed: the next process needs that document too.

    Attributes
    ----------
    next : int
        The offset after the last message that was handled.
    time_ms : int
        The latest time of a message, by the broker's or the publisher's clock, in milliseconds since the epoch.
    begun : dict
        Offset and time of the start documents of runs that have not stopped, by their uids.
    """

    next: int
    time_ms: int = 0
    begun: dict[str, tuple[int, int]] = field(default_factory=dict)

    def handled(self, offset: int, time_ms: int) -> None:
        """Take note of a message that needs not be read again for its own sake."""
        self.next = offset + 1
        self.time_ms = max(self.time_ms, time_ms)

    def start(self, uid: str, offset: int, time_ms: int) -> None:
        """Take note of a run's start document."""
        self.begun.setdefault(uid, (offset, time_ms))

    def stop(self, uid: str) -> None:
        """Take note of a run's stop document."""
        self.begun.pop(uid, None)

    def may_commit(self, wait_s: float) -> int:
        """Return the offset to begin at again; a run without a stop document is waited for that long, in seconds."""
        for uid, (_, time_ms) in list(self.begun.items()):
            if self.time_ms - time_ms > wait_s * 1000:
                del self.begun[uid]
        return min([self.next, *(offset for offset, _ in self.begun.values())])
