"""Runs that Tiled tells of as they stop, over its web socket."""

import threading
from collections.abc import Callable
from typing import Any

from bluesky_prefect.core import error_line
from bluesky_prefect.tiled_api._catalog import Catalog
from bluesky_prefect.tiled_api._connect import tiled_errors

# A start document with much metadata is larger than the client's own bound, beyond which it never connects again.
_MAX_MESSAGE = 64_000_000
_CLOSE_S = 2.0


class RunStream:
    """The stream of a catalog's updates, on a thread that reconnects by itself and goes on where it was.

    The server needs a streaming cache. Without one, or where it refuses the key, the stream ends at once.

    Parameters
    ----------
    begun : callable
        Is called, on another thread, with the key of each run that comes to the catalog.
    stopped : callable
        Is called likewise for each that has a stop document when it comes, or when its metadata change: so it is also
        where somebody edits those of an old one.
    ended : callable
        Is called with the reason when the stream ends by itself.
    """

    def __init__(
        self,
        catalog: Catalog,
        begun: Callable[[str], None],
        stopped: Callable[[str], None],
        ended: Callable[[str], None],
    ) -> None:
        self._begun = begun
        self._stopped = stopped
        self._ended = ended
        with tiled_errors(catalog.name):
            self._subscription: Any = catalog.raw.subscribe()
        # They are held weakly there.
        self._subscription.child_metadata_updated.add_callback(self._look)
        self._subscription.child_created.add_callback(self._note_begun)
        self._thread = threading.Thread(target=self._run, name="tiled-run-stream", daemon=True)
        self._closed = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True while it receives what Tiled tells, or tries to connect again."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End it."""
        self._closed = True
        # It waits for a server that may not answer; the thread is of no harm then.
        threading.Thread(target=self._subscription.disconnect, daemon=True).start()
        self._thread.join(_CLOSE_S)

    def _note_begun(self, update: Any) -> None:
        self._begun(update.key)
        self._look(update)

    def _look(self, update: Any) -> None:
        if (update.metadata or {}).get("stop"):
            self._stopped(update.key)

    def _run(self) -> None:
        try:
            self._subscription.start(max_size=_MAX_MESSAGE)
            problem = "the server has ended it"
        except Exception as error:  # noqa: BLE001 - whatever it is, runs are looked for without it
            problem = error_line(error)
        if not self._closed:
            self._ended(problem)
