"""Bounds what others on this machine can have Prefect write to a worker's log."""

import logging
import time
from collections import Counter
from collections.abc import Callable

# What a worker listens with for its flow runs: each connection of a stranger is worth a line to it, or a traceback.
LOGGER = "prefect.runner.control_channel"
_EVERY_S = 60.0


class OncePerMinute(logging.Filter):
    """Let each warning or error pass once a minute, with how many like it did not.

    Parameters
    ----------
    clock : callable
        Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._passed: dict[str, float] = {}
        self._held_back: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        text, now = str(record.msg), self._clock()
        if record.levelno < logging.WARNING:
            return True
        if now - self._passed.get(text, now - _EVERY_S) < _EVERY_S:
            self._held_back[text] += 1
            return False
        self._passed[text] = now
        if held_back := self._held_back.pop(text, 0):
            record.msg = f"{text} (and {held_back} more since the last line like this)"
        return True


_FILTER = OncePerMinute()


def bound_control_log() -> None:
    """Have the connections that a worker refuses written to its log once a minute."""
    logging.getLogger(LOGGER).addFilter(_FILTER)  # which adds it once, however often
