"""An outage of Prefect in a worker's log: a line when it begins, and one when it is over."""

import logging

import httpx

from bluesky_prefect.core import one_line, without_secrets

logger = logging.getLogger(f"prefect.{__name__}")

# What Prefect listens with for each flow run, and sends its events with: a traceback each, from each process.
_LOGGERS = ("prefect.FlowRunSuspendingObserver", "prefect.FlowRunCancellingObserver", "prefect.events.clients")
_MESSAGES = ("The %s websocket", "%s reconnected to the events stream", "Unable to connect to %r.")


class OutageLog:
    """The outages that a worker has met; `url` is where it looks for Prefect."""

    def __init__(self, url: str | None) -> None:
        self._where = without_secrets(url or "")
        self._away = False

    def failed(self, error: Exception | None) -> None:
        """Take note that Prefect could not be reached, or could not answer a request."""
        # Whoever answers, and refuses web sockets alone, is there.
        if isinstance(error, OSError | httpx.HTTPError) and not self._away:
            self._away = True
            told = "Prefect at %s cannot be reached: %s. Flow runs under way go on; others start when it answers again."
            logger.warning(told, self._where, one_line(str(error), 200))

    def answered(self) -> None:
        """Take note that Prefect answers."""
        if self._away:
            self._away = False
            logger.warning("Prefect at %s answers again", self._where)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(_MESSAGES)


_FILTER = _Filter()


def quiet_outages() -> None:
    """Hold back what this process and its children would write of an outage, besides what `OutageLog` does."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # which adds it once, however often
