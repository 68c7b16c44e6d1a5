"""Log messages about troubles that last."""

import logging
from collections.abc import Callable

_EVERY_S = 3600.0


class Reminders:
    """Logs each trouble that lasts once an hour; the clock gives a time in seconds that never jumps."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self.told: dict[str, float] = {}

    def tell(self, topic: str, level: int, message: str, *values: object) -> None:
        """Log a trouble, unless it was logged in the last hour; its topic tells it from others."""
        now = self._clock()
        if now - self.told.get(topic, float("-inf")) >= _EVERY_S:
            self.told[topic] = now
            self._logger.log(level, message, *values)

    def forget(self, topic: str) -> None:
        """Take note that a trouble is over."""
        self.told.pop(topic, None)
