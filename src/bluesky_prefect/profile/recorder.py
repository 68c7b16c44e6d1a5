"""Runs on their way to Tiled, which no outage turns into a lost run or a stopped scan."""

import contextlib
import logging
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from event_model import RunRouter

from bluesky_prefect.documents import jsonable
from bluesky_prefect.exceptions import BlueskyPrefectError, TiledUnavailable
from bluesky_prefect.kept_runs import hold, patches
from bluesky_prefect.private import private_file
from bluesky_prefect.profile.tiled import TiledConnection

if TYPE_CHECKING:
    from bluesky_tiled_plugins import TiledWriter

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]


class TiledRecorder:
    """A callback that writes runs to Tiled with ``TiledWriter`` and never raises.

    Documents also go to a file, one for each run, which is deleted when the run is in Tiled as a whole. So a run
    that Tiled did not take, or a session killed half-way, leaves its documents in that file; the user is told
    once for each such run. `kept_runs.send_run` takes the file to Tiled later.

    Parameters
    ----------
    connection : TiledConnection
        Where to write.
    directory : pathlib.Path
        Where the files go; made when the first is written.
    tell : callable
        Is told in one line about a run that is not in Tiled.
    """

    def __init__(self, connection: TiledConnection, *, directory: Path, tell: Tell):
        self._connection = connection
        self._directory = directory
        self._tell = tell
        self._router = RunRouter([self._new_run])

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take one document."""
        try:
            self._router(name, doc)
        except Exception:
            # An exception in a callback aborts the plan.
            logger.exception("A %s document cannot be recorded", name)

    def _new_run(self, name: str, doc: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        return [_Recording(doc, self._connection, self._directory, self._tell)], []


class _Recording:
    """One run, from its start to its stop document."""

    def __init__(self, start: dict[str, Any], connection: TiledConnection, directory: Path, tell: Tell):
        self._uid = start["uid"]
        self._label = f"Run {self._uid[:8]} (scan {start.get('scan_id', '?')})"
        self._tell = tell
        self._spool = _Spool(directory / f"{self._uid}.msgpack")
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
        kept = self._spool.keep()
        mend = "'bluesky-prefect reconcile --submit' writes them to it"
        where = f"its documents are kept in {kept}; {mend}" if kept else "and its documents are lost"
        self._tell(f"{self._label} is not in Tiled, {where}. Cause: {' '.join(self._problem.split())}")


class _Spool:
    """A file of documents as they come: msgpack, since it keeps numpy arrays and bytes as they are.

    It is held while the run goes on, so that nobody takes it to Tiled meanwhile.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file: IO[bytes] | None = None
        self._broken = False

    def write(self, name: str, doc: dict[str, Any]) -> None:
        if self._broken:
            return
        try:
            if self._file is None:
                private_file(self._path)
                self._file = self._path.open("ab", buffering=0)
                # A run may never stop, and its recording be forgotten.
                weakref.finalize(self, self._file.close)
                hold(self._file)
            self._file.write(_pack(name, doc))
        except OSError as error:
            self._broken = True
            self._close()
            logger.error("Documents cannot be kept in %s: %s", self._path, error)

    def keep(self) -> Path | None:
        """Make sure the file is on the disk, and return it if it is whole."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._close()
        return None if self._broken else self._path

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _pack(name: str, doc: dict[str, Any]) -> bytes:
    import msgpack
    import msgpack_numpy

    try:
        packed = msgpack.packb([name, doc], default=msgpack_numpy.encode)
    except (ValueError, TypeError, OverflowError, RecursionError):  # an object, a cycle, an integer of 65 bits
        packed = msgpack.packb([name, jsonable(doc)])
    return packed or b""
