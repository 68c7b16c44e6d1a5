"""The courier of a session's state directory: it is there, and the run just taken is waited for."""

import atexit
import logging
import threading
import time
from collections.abc import Callable

from bluesky_prefect.core import BlueskyPrefectError, Settings, comparable_url, counted, get_settings
from bluesky_prefect.courier import running_courier
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.outbox import stopped_runs
from bluesky_prefect.stack import LocalStack
from bluesky_prefect.tiled_api import server_name

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
_MAX_WAIT_S = 600.0
_POLL_S = 0.02
_SILENT_S = 2.0


class CourierKeeper:
    """Has a courier at work while this session needs one.

    One that was killed is replaced once there is something for it; one that somebody stopped, too. `tell` is told in
    a line what somebody should know.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._directory = JournalDirectory(settings.journals_path)
        self._told = False
        self._wait_s = _LOOK_EVERY_S

    def start(self) -> None:
        """Start a courier if none is at work, and go on looking; at the end of the session tell what is on its way."""
        self._start_courier()
        self._tell_of_another_tiled()
        atexit.register(self.tell_at_the_end)
        threading.Thread(target=self._look, name="courier-keeper", daemon=True).start()

    def tell_at_the_end(self) -> None:
        """Tell which runs Tiled does not have yet, and who takes them there."""
        if waiting := len(self._directory.waiting()):
            courier = running_courier(self._settings)
            who = f"The courier ({courier.process})" if courier else "The next courier"
            them = "it" if waiting == 1 else "them"
            self._tell(f"Still on the way to Tiled: {counted(waiting, 'run')}. {who} will deliver {them}.")

    def _look(self) -> None:
        while True:
            time.sleep(self._wait_s)
            if running_courier(self._settings) is not None:
                self._wait_s = _LOOK_EVERY_S
            elif self._directory.waiting():
                # One that cannot even start is started ever more rarely.
                self._wait_s = min(2 * self._wait_s, _MAX_WAIT_S)
                self._start_courier()

    def _start_courier(self) -> None:
        if not self._settings.start_courier:
            self._tell_once("No courier is running, and this session starts none: runs are recorded and wait on disk")
            return
        try:
            process = LocalStack(self._settings).start_courier()
        except (BlueskyPrefectError, OSError) as error:
            logger.debug("No courier was started: %s", error)
            self._tell_once(f"No courier can be started ({error}): runs are recorded and wait on disk for one")
        else:
            if process is not None:
                self._tell(
                    f"Started a courier (pid {process.pid}, log: {process.log}): it takes runs to Tiled and starts "
                    "their workflows, until 'bluesky-prefect down', even when this session is closed"
                )

    def _tell_of_another_tiled(self) -> None:
        courier, here = running_courier(self._settings), server_name(self._settings)
        if courier and courier.tiled and here and _server(courier.tiled) != _server(here):
            self._tell(
                f"The courier ({courier.process}) takes runs to Tiled at {courier.tiled}, but this session reads from "
                f"{here}. To send them there, run 'bluesky-prefect down' first, or use another state directory"
            )

    def _tell_once(self, line: str) -> None:
        if not self._told and running_courier(self._settings) is None:
            self._told = True
            self._tell(line)


def _server(url: str) -> str:
    """Return a Tiled server's address as it can be compared: with and without its API's path it is the same."""
    return (comparable_url(url) or "").removesuffix("/api/v1")


def wait_until_delivered(
    settings: Settings | None = None, tell: Callable[[str], None] = print, timeout_s: float | None = None
) -> bool:
    """Wait until Tiled has the run that stopped last in this process, and return whether it has.

    Parameters
    ----------
    timeout_s : float, optional
        How long at most, in seconds; by default the setting ``delivery_timeout_s``.
    """
    settings = settings or get_settings()
    last = stopped_runs.last()
    directory = JournalDirectory(settings.journals_path)
    if last is None:
        return True
    began, told = time.monotonic(), False
    timeout_s = settings.delivery_timeout_s if timeout_s is None else timeout_s
    while directory.is_waiting(last.uid):
        waited_s = time.monotonic() - began
        if waited_s > _SILENT_S and running_courier(settings) is None:
            tell(f"Run {last.uid[:8]} is not in Tiled yet: no courier is running (start one: bluesky-prefect courier)")
            return False
        if waited_s > _SILENT_S and not told:
            told = True
            tell(f"Waiting until Tiled has run {last.uid[:8]} ...")
        if waited_s > timeout_s:
            tell(f"Run {last.uid[:8]} is not in Tiled yet, after {timeout_s:g} s: see 'bluesky-prefect journal list'")
            return False
        time.sleep(_POLL_S)
    if reason := directory.why_refused(last.uid):
        tell(f"Tiled refuses run {last.uid[:8]}: {reason}")
    return reason is None
