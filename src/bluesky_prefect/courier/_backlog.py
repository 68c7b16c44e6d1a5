"""The backlog of the outboxes, as the log tells of it."""

import logging
from collections.abc import Callable, Sequence

from bluesky_prefect.core import OutboxError
from bluesky_prefect.courier._courier_lock import RunningCourier
from bluesky_prefect.courier._reminders import Reminders
from bluesky_prefect.outbox import Outbox

logger = logging.getLogger(__name__)

# Runs named at most, of those that are lost.
_NAMED = 100
# What waits for another server is sent by that server's own session, if there is one, long before.
_ELSEWHERE_AFTER_S = 60.0


class Backlog:
    """The submissions that wait in the outboxes, of which the first is the durable one, as the log tells of them."""

    def __init__(self, outboxes: Sequence[Outbox], reminders: Reminders, clock: Callable[[], float]) -> None:
        self._durable, *self._fallbacks = outboxes
        self._reminders = reminders
        self._clock = clock
        self._looked_at = clock()

    def tell_at_the_end(self, here: str | None, courier: RunningCourier | None) -> None:
        """Tell what a session leaves to the courier, or to the next one whose Prefect is `here`, and what is lost."""
        try:
            by_address = self._durable.waiting_by_address()
        except OutboxError as error:
            logger.debug("Not counted: %s", error)
        else:
            if waiting := sum(by_address.get(address, 0) for address in {None, here}):
                who = f"the courier ({courier.process})" if courier else "the next session or courier on this outbox"
                logger.warning("Still to be sent: %d (in %s); %s sends them", waiting, self._durable.path, who)
        for outbox in self._fallbacks:
            if left := outbox.oldest_unsent(_NAMED):
                logger.error(
                    "Neither sent nor on disk, and lost with this session: what was to be started on the runs %s. "
                    "The runs are in Tiled: start it with 'bluesky-prefect submit UID...'",
                    ", ".join(dict.fromkeys(entry.run_uid for entry in left)),
                )

    def tell_what_is_for_others(self, here: str | None) -> None:
        """Tell of what waits for another server than that `here`, and of nothing that this session could send."""
        now = self._clock()
        if now - self._looked_at < _ELSEWHERE_AFTER_S:
            return
        self._looked_at = now
        for url, many in self._durable.waiting_by_address(for_s=_ELSEWHERE_AFTER_S).items():
            if url not in (None, here):
                self._reminders.tell(
                    url,
                    logging.WARNING,
                    "%d submissions in %s wait for a session whose Prefect is at %s; this one's is at %s. To have "
                    "them sent there: bluesky-prefect outbox move --from %s --to URL",
                    many,
                    self._durable.path,
                    url,
                    here or "no known address",
                    url,
                )
