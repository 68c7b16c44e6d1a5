"""The flow runs that failed last, in a file: sessions read it without Prefect."""

import json
import logging
import threading
from contextlib import ExitStack
from dataclasses import asdict

from bluesky_prefect.core import PrefectUnavailable, Settings, error_and_place, write_whole
from bluesky_prefect.outbox import existing_outbox
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.watch._listing import last_failures
from bluesky_prefect.watch._workflow_status import WorkflowStatus

logger = logging.getLogger(__name__)

# More failures than that between two looks are not told one by one anyway.
MAX_FAILURES = 50
_POLL_S = 3.0


class FailureLog:
    """The flow runs of runs that failed or crashed last, as whoever keeps the file has found them at Prefect."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = settings.state_directory / "failures.json"
        self._written: list[tuple[WorkflowStatus, float]] | None = None

    def read(self) -> list[tuple[WorkflowStatus, float]]:
        """Return the flow runs, and when they failed, in seconds since the epoch; nothing if nobody keeps the file."""
        try:
            return [(WorkflowStatus(**status), failed_at) for status, failed_at in json.loads(self._path.read_text())]
        except (OSError, ValueError, TypeError):  # not there yet, or of another version
            return []

    def keep(self, finish: threading.Event) -> None:
        """Keep the file up to date until `finish` is set, whatever goes wrong."""
        with ExitStack() as opened:
            api: PrefectApi | None = None
            while not finish.wait(_POLL_S):
                try:
                    with existing_outbox(self._settings.outbox_path) as outbox:
                        if outbox is None or not outbox.counts().sent:
                            continue  # nothing of this state directory can have failed
                    api = api or opened.enter_context(PrefectApi(self._settings.request_timeout_s))
                    self._write(last_failures(api, MAX_FAILURES, beamline=self._settings.beamline))
                except PrefectUnavailable as error:
                    logger.debug("Not looked for failures: %s", error)
                except Exception as error:  # noqa: BLE001 - a thread that ends here would never tell anything again
                    logger.debug("Not looked for failures, and going on: %s", error_and_place(error))

    def _write(self, found: list[tuple[WorkflowStatus, float]]) -> None:
        if found != self._written:
            content = [(asdict(status), failed_at) for status, failed_at in found]
            write_whole(self._path, json.dumps(content).encode(), private=True)
            self._written = found
