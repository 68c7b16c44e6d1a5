"""Runs on their way to Tiled, which no outage turns into a lost run or a stopped scan."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from event_model import RunRouter

from bluesky_prefect.core import BlueskyPrefectError, TiledUnavailable
from bluesky_prefect.session._spool import Spool
from bluesky_prefect.session._stranded import REMEDY, StrandedRuns
from bluesky_prefect.session._tiled import TiledConnection
from bluesky_prefect.tiled_api import patches

if TYPE_CHECKING:
    from bluesky_tiled_plugins import TiledWriter
    from event_model import RunStart

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]


class TiledRecorder:
    """A callback that writes runs to Tiled with ``TiledWriter`` and never raises.

    Documents also go to a file in `directory`, one for each run, which is deleted when the run is in Tiled as a whole.
    So a run that Tiled did not take, or a session killed half-way, leaves its documents in that file; `tell` is told
    once, in one line, of each such run. `tiled_api.send_run` takes the file to Tiled later. Where the disk refuses too,
    the run stays in memory until one of the two takes it.
    """

    def __init__(self, connection: TiledConnection, *, directory: Path, tell: Tell):
        self._connection = connection
        self._directory = directory
        self._tell = tell
        self._stranded = StrandedRuns(connection, tell)
        self._router = RunRouter([self._new_run])

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take one document."""
        try:
            self._router(name, doc)
        except Exception:
            # An exception in a callback aborts the plan.
            logger.exception("A %s document cannot be recorded", name)

    def close(self) -> None:
        """Bring what only memory holds to Tiled or to the disk, if that is possible; done at exit anyway."""
        self._stranded.close()

    def _new_run(self, name: str, doc: "RunStart") -> tuple[list[Any], list[Any]]:
        return [_Recording(doc, self._connection, self._directory, self._tell, self._stranded)], []


class _Recording:
    """One run, from its start to its stop document."""

    def __init__(
        self, start: "RunStart", connection: TiledConnection, directory: Path, tell: Tell, stranded: StrandedRuns
    ) -> None:
        self._uid = start["uid"]
        self._label = f"Run {self._uid[:8]} (scan {start.get('scan_id', '?')})"
        self._tell = tell
        self._stranded = stranded
        self._spool = Spool(directory / f"{self._uid}.msgpack")
        self._problem = ""
        self._writer = self._new_writer(connection)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        self._spool.write(name, doc)
        if self._writer is not None:
            try:
                self._writer(name, doc)
            except Exception as error:  # noqa: BLE001 - whatever it is, the scan goes on
                self._fail(error)
        if name == "stop":
            self._finish()

    def _new_writer(self, connection: TiledConnection) -> "TiledWriter | None":
        try:
            if problem := connection.problem():
                raise TiledUnavailable(f"Tiled is not there ({problem})")
            from bluesky_tiled_plugins import TiledWriter

            return TiledWriter(connection.raw(), patches=patches())
        except Exception as error:  # noqa: BLE001 - whatever it is, the scan goes on
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        self._writer = None
        self._problem = str(error) or type(error).__name__
        if not isinstance(error, BlueskyPrefectError):
            logger.debug("Run %s cannot be written to Tiled", self._uid, exc_info=error)

    def _finish(self) -> None:
        if not self._problem:
            self._spool.discard()
            return
        cause = f"Cause: {' '.join(self._problem.split())}"
        if kept := self._spool.keep():
            self._tell(f"{self._label} is not in Tiled, its documents are kept in {kept}; {REMEDY}. {cause}")
            return
        self._tell(
            f"{self._label} is not in Tiled, and the disk refuses its documents: only this session's memory holds "
            f"them. Leave it open; they are saved once Tiled or the disk is there again. {cause}"
        )
        self._stranded.add(self._label, self._spool)
