"""The moments at which a worker looks for flow runs: when there is one, and when one is due."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

logger = logging.getLogger(f"prefect.{__name__}")

_RETRY_S = 1.0


class Poller:
    """Have a worker look for flow runs as soon as there may be one.

    Parameters
    ----------
    poll : callable
        Look for flow runs.
    """

    def __init__(self, poll: Callable[[], Awaitable[Any]]) -> None:
        self._poll = poll
        self._called = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def poll_now(self) -> None:
        """Look now; calls during a look are one more look."""
        self._called.set()

    def poll_in(self, delay_s: float) -> None:
        """Look in some time, unless that is due earlier anyway."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None or not now < self._timer.when() <= now + delay_s:
            self.cancel()
            self._timer = loop.call_later(delay_s, self.poll_now)

    def cancel(self) -> None:
        """Call off what is due later."""
        if self._timer is not None:
            self._timer.cancel()

    async def serve(self) -> None:
        """Look whenever it is called for."""
        while True:
            await self._called.wait()
            self._called.clear()
            try:
                await self._poll()
            except Exception as error:  # noqa: BLE001  # the worker's own polling decides when to give up
                logger.debug("Looking for flow runs failed: %r", error)
                self.poll_in(_RETRY_S)
