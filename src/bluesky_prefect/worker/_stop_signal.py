"""The signal that ends a worker."""

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(f"prefect.{__name__}")


@contextmanager
def cancelled_by_sigterm() -> Iterator[None]:
    """Cancel the current task upon SIGTERM; a second one ends the process at once.

    Prefect's own handler, in whose place this is, sends SIGINT to its process. A shell has that ignored in what a
    script starts in the background (``prefect worker start ... &``): such a worker would never end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread may handle signals
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    before = signal.getsignal(signal.SIGTERM)

    def stop() -> None:
        logger.info("Received SIGTERM. Stopping the worker...")
        loop.remove_signal_handler(signal.SIGTERM)
        if task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
