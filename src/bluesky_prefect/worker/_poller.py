"""Being told of new flow runs, in place of asking for them now and then."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import anyio
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

logger = logging.getLogger(f"prefect.{__name__}")

# The states in which a flow run waits for a worker.
_EVENTS = [f"prefect.flow-run.{name}" for name in ("Scheduled", "AwaitingRetry", "Resuming", "AwaitingConcurrencySlot")]
# Waits between two tries to subscribe, while polling goes on; where web sockets are refused, that is all the time.
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0


class Poller:
    """Have a worker look for flow runs at the moment when there is one.

    Parameters
    ----------
    look : callable
        Look for flow runs.
    """

    def __init__(self, look: Callable[[], Awaitable[Any]]) -> None:
        self._look = look
        self._called = anyio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def call(self) -> None:
        """Look now; calls during a look are one more look."""
        self._called.set()

    def call_in(self, delay_s: float) -> None:
        """Look in some time, unless that is due earlier anyway."""
        loop = asyncio.get_running_loop()
        if self._timer is None or self._timer.cancelled() or self._timer.when() > loop.time() + delay_s:
            self.forget()
            self._timer = loop.call_later(delay_s, self._ring)

    def forget(self) -> None:
        """Call off what is due later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self.call()

    async def serve(self) -> None:
        """Look whenever it is called for."""
        while True:
            await self._called.wait()
            self._called = anyio.Event()
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001  # the worker's own polling decides when to give up
                logger.debug("Looking for flow runs failed: %r", error)
                self.call_in(_FIRST_WAIT_S)

    async def listen(self, work_pool: UUID) -> None:
        """Call whenever Prefect's event stream tells of a flow run that waits in a work pool."""
        wait_s = _FIRST_WAIT_S
        events = EventFilter(
            event=EventNameFilter(name=_EVENTS),
            any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{work_pool}"]),
        )
        while True:
            try:
                async with get_events_subscriber(filter=events, reconnection_attempts=0) as subscriber:
                    wait_s = _FIRST_WAIT_S
                    # For what was made while nobody listened.
                    self.call()
                    async for _ in subscriber:
                        self.call()
            except Exception as error:  # noqa: BLE001  # whatever it is: polling goes on, and it is tried again
                logger.debug("No event stream, going on with polling: %r", error)
            await anyio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
