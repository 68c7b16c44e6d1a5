"""A look at Prefect and Tiled every few seconds, so that a scrape needs none."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from bluesky_prefect.core import PrefectUnavailable, Settings, error_and_place, error_line
from bluesky_prefect.metrics._followed_flow_runs import FollowedFlowRuns, Moment
from bluesky_prefect.metrics._signals import Signals
from bluesky_prefect.prefect_api import PrefectApi, flow_run_times, prefect_errors

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
# A server that nobody has a question for, or that is away.
_ASK_EVERY_S = 15.0


class ServerWatch:
    """Asks Prefect what became of followed flow runs, and both servers whether they are there, on a thread of its own.

    Parameters
    ----------
    became : callable
        Is called with what has become of flow runs.
    ask_tiled : callable, optional
        Asks Tiled, and signals what came of it.
    """

    def __init__(
        self,
        settings: Settings,
        signals: Signals,
        followed: FollowedFlowRuns,
        became: Callable[[Moment], None],
        ask_tiled: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._signals = signals
        self._followed = followed
        self._became = became
        self._ask_tiled = ask_tiled
        self._api: PrefectApi | None = None
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Have the thread end after the request that it is at; nobody waits for that."""
        self._finish.set()

    def _run(self) -> None:
        ask_prefect_at = ask_tiled_at = 0.0
        with ExitStack() as opened:
            while not self._finish.wait(_LOOK_EVERY_S):
                last = self._signals.prefect.last
                due = self._followed.due() if last is None or last.is_up else []
                if due or time.monotonic() >= ask_prefect_at:
                    self._look_at_prefect(opened, due)
                    ask_prefect_at = time.monotonic() + _ASK_EVERY_S
                if self._ask_tiled is not None and time.monotonic() >= ask_tiled_at:
                    self._ask_tiled()
                    ask_tiled_at = time.monotonic() + _ASK_EVERY_S

    def _look_at_prefect(self, opened: ExitStack, due: list[str]) -> None:
        try:
            if self._api is None:
                self._api = opened.enter_context(PrefectApi(self._settings.request_timeout_s))
            if due:
                for moment in self._followed.saw(due, flow_run_times(self._api, due)):
                    self._became(moment)
            else:
                # What needs the database, and the key; a server whose database is away answers its own greetings.
                with prefect_errors():
                    self._api.client.request("POST", "/deployments/filter", json={"limit": 1})
            self._signals.prefect.up()
        except PrefectUnavailable as error:
            self._signals.prefect.down(str(error))
        except Exception as error:  # noqa: BLE001 - a thread that ends here would never tell anything again
            if self._api is None:
                self._signals.prefect.down(f"Prefect cannot be imported: {error_line(error)}")
            logger.debug("Prefect was not looked at, and will be again: %s", error_and_place(error))
