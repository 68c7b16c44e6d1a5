"""Upkeep of the outboxes that are sent from."""

import logging
from collections.abc import Callable, Sequence

from bluesky_prefect.core import OutboxError, Settings
from bluesky_prefect.outbox import PRUNED_AT_ONCE, Outbox

logger = logging.getLogger(__name__)

_RESCUE_EVERY_S = 2.0
_PRUNE_EVERY_S = 3600.0
# How often it is looked for what sessions of older versions have put beside the outbox.
_ADOPT_EVERY_S = 60.0


class OutboxUpkeep:
    """Moves to the outbox on disk, which is the first, what belongs there, and deletes what is old.

    The clock gives a time in seconds that never jumps.
    """

    def __init__(self, outboxes: Sequence[Outbox], settings: Settings, clock: Callable[[], float]) -> None:
        self._durable, *self._fallbacks = outboxes
        self._keep_sent_days = settings.keep_sent_days
        self._clock = clock
        self._rescue_at = 0.0
        self._adopted_at = self._pruned_at = float("-inf")

    def rescue(self, *, at_once: bool = False) -> None:
        """Move to the outbox on disk, once that takes it, what only memory holds, and what waits beside it."""
        if at_once:
            self._rescue_at = self._adopted_at = float("-inf")
        now = self._clock()
        if now < self._rescue_at:
            return
        try:
            for outbox in self._fallbacks:
                for run_uid in dict.fromkeys(self._durable.adopt(outbox)):
                    logger.warning("Run %s: the outbox takes it again; it is on disk now", run_uid)
            if now - self._adopted_at >= _ADOPT_EVERY_S:
                self._adopted_at = now
                self._durable.adopt_siblings()
        except OutboxError as error:
            self._rescue_at = self._clock() + _RESCUE_EVERY_S
            logger.debug("Not moved to disk: %s", error)

    def prune(self) -> None:
        """Delete what is done with: from memory at once, from the disk after some days."""
        for outbox in self._fallbacks:
            outbox.prune(0.0, states=["sent"])  # nobody looks there for what was sent
        now = self._clock()
        if now - self._pruned_at < _PRUNE_EVERY_S:
            return
        try:
            if self._durable.prune(self._keep_sent_days) < PRUNED_AT_ONCE:
                self._pruned_at = now
        except OutboxError as error:
            self._pruned_at = now
            logger.debug("Not pruned: %s", error)
