"""An outage of Prefect: how long to wait, and what to tell of it."""

import logging
from collections.abc import Callable

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base, wait_exponential, wait_random

from bluesky_prefect.core import PrefectUnavailable, Settings

# A shorter outage (a server on SQLite answers 503 under load) is nobody's business.
_TOLD_AFTER_S = 10.0


def growing_waits(settings: Settings) -> Callable[[int], float]:
    """Return what gives the wait after so many failures, in seconds: ever longer, and never quite the same."""
    exponential = wait_exponential(multiplier=settings.retry_initial_s, max=settings.retry_max_s)
    policy: wait_base = exponential + wait_random(0, settings.retry_initial_s)

    def wait_s(failures: int) -> float:
        call = RetryCallState(Retrying(), None, (), {})
        call.attempt_number = failures
        return policy(call)

    return wait_s


class Backoff:
    """Waits during an outage of Prefect, and what the log tells of it: the beginning and the end of one that lasts.

    `busy` says that a server is there, and only busy or in trouble. The clock gives a time in seconds that never jumps.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float], logger: logging.Logger) -> None:
        self._wait_s = growing_waits(settings)
        self._max_s = settings.retry_max_s
        self._clock = clock
        self._logger = logger
        self._failures = 0
        self._began = 0.0
        self._told = False
        self.busy = False

    @property
    def under_way(self) -> bool:
        """True if the last attempt met it."""
        return self._failures > 0

    def failed(self, error: PrefectUnavailable, run_uid: str) -> float:
        """Take note of an attempt that failed, and return how long to wait before the next, in seconds.

        A server that asks for more than the longest wait is asked again after that: it may be well much sooner.
        """
        now = self._clock()
        if not self.under_way:
            self._began = now
        self._failures += 1
        self.busy = error.server_responded
        if not self._told and (not error.transient or now - self._began >= _TOLD_AFTER_S):
            self._told = True
            self._logger.warning("Run %s waits in the outbox: %s", run_uid, error)
        return max(self._wait_s(self._failures), min(error.retry_after_s or 0.0, self._max_s))

    def succeeded(self) -> None:
        """Take note of an attempt that Prefect answered."""
        if self._told:
            self._logger.warning("Prefect answers again; sending what waits")
        self._failures = 0
        self._told = False
