"""The flow runs that failed last, in a file: sessions read it without Prefect."""

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict

from bluesky_prefect.core import PrefectUnavailable, Settings, error_and_place, write_whole
from bluesky_prefect.outbox import Outbox, existing_outbox
from bluesky_prefect.prefect_api import FAILED_STATES, PrefectApi, flow_run_times, is_final
from bluesky_prefect.watch._listing import last_failures
from bluesky_prefect.watch._workflow_status import WorkflowStatus

logger = logging.getLogger(__name__)

# More failures than that between two looks are not told one by one anyway.
MAX_FAILURES = 50
_POLL_S = 3.0
# Prefect finds flow runs by their ids at once. By their tags it looks through many, and every courier asks it.
_ALL_EVERY_S = 30.0
_MAX_OUTSTANDING = 200
_IDS_AT_ONCE = 50


class FailureLog:
    """The flow runs of runs that failed or crashed last, as whoever keeps the file has found them at Prefect.

    What was sent from here and has not ended is looked at every few seconds. Others are found within half a minute:
    those that reconciliation, or a person, has started. The clock gives a time in seconds that never jumps.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._all_at = float("-inf")
        # When the last of those that are known was sent, in seconds since the epoch. While a clock that was set back is
        # behind that, what fails is found with all others.
        self._sent_until = 0.0
        # Flow runs that were sent from here and have not ended, as far as known; a dictionary holds them in order.
        self._outstanding: dict[str, None] = {}
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
                        if outbox is None or not outbox.sent_after(0.0, 1):
                            continue  # nothing of this state directory can have failed
                        api = api or opened.enter_context(PrefectApi(self._settings.request_timeout_s))
                        self.look(outbox, api)
                except PrefectUnavailable as error:
                    logger.debug("Not looked for failures: %s", error)
                except Exception as error:  # noqa: BLE001 - a thread that ends here would never tell anything again
                    logger.debug("Not looked for failures, and going on: %s", error_and_place(error))

    def look(self, outbox: Outbox, api: PrefectApi) -> None:
        """Look once, and write what is new to the file; for errors see `found`."""
        if (found := self.found(outbox, api)) is not None:
            self._write(found)

    def found(self, outbox: Outbox, api: PrefectApi) -> list[tuple[WorkflowStatus, float]] | None:
        """Look once at what is outstanding, and for all failures if one of these has failed or it is time for that.

        Returns None if it was not looked for these; see `read`.

        Raises
        ------
        PrefectUnavailable
            If Prefect cannot be asked.
        OutboxError
            If the outbox cannot be read.
        """
        self._note_sent(outbox)
        if not self._has_failed(api) and self._clock() < self._all_at:
            return None
        found = last_failures(api, MAX_FAILURES, beamline=self._settings.beamline)
        self._all_at = self._clock() + _ALL_EVERY_S
        return found

    def _note_sent(self, outbox: Outbox) -> None:
        """Take note of what was sent from here since the last look, of a backlog what was sent last."""
        if not (newest := outbox.sent_after(self._sent_until, _MAX_OUTSTANDING)):
            return
        self._sent_until = newest[0][1]
        self._outstanding.update(dict.fromkeys(one for one, _ in reversed(newest) if one))
        # Where no worker is there for days; what is not among these is found with all others.
        for one in list(self._outstanding)[:-_MAX_OUTSTANDING]:
            del self._outstanding[one]

    def _has_failed(self, api: PrefectApi) -> bool:
        """Return whether a flow run of those outstanding has ended without success; others are asked for each time."""
        asked = list(self._outstanding)[:_IDS_AT_ONCE]
        if not asked:
            return False
        found = flow_run_times(api, asked)
        for one in asked:
            del self._outstanding[one]
            if one in found and not is_final(found[one].state_type):
                self._outstanding[one] = None
        return any(one.state_type in FAILED_STATES for one in found.values())

    def _write(self, found: list[tuple[WorkflowStatus, float]]) -> None:
        if found != self._written:
            content = [(asdict(status), failed_at) for status, failed_at in found]
            write_whole(self._path, json.dumps(content).encode(), private=True)
            self._written = found
