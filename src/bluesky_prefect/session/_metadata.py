"""Metadata that outlives the session."""

import contextlib
import copy
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from bluesky_prefect.core import HeldLock, private_database, tell_of_forks

logger = logging.getLogger(__name__)

_CREATE = "CREATE TABLE IF NOT EXISTS metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
_SET = "INSERT INTO metadata (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
# One statement, so that two sessions never draw the same number.
_NEXT = (
    "INSERT INTO metadata (key, value) VALUES ('scan_id', ?) ON CONFLICT (key) "
    "DO UPDATE SET value = max(CAST(value AS INTEGER) + 1, CAST(excluded.value AS INTEGER)) RETURNING value"
)
_AT_LEAST = (
    "INSERT INTO metadata (key, value) VALUES ('scan_id', ?) ON CONFLICT (key) "
    "DO UPDATE SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER)) RETURNING value"
)
_BUSY_TIMEOUT_S = 2.0


class PersistentMetadata(MutableMapping[str, Any]):
    """The RunEngine's metadata, kept in a file, which is made, with its directory, if it does not exist.

    Each assignment is on disk when it returns, also if the process is killed then. Several sessions (IPython, a queue
    server) may use one file: each draws scan ids of its own; other keys are read when a session starts and the last
    assignment wins. A value that is changed in place (``md["sample"]["name"] = ...``) is kept by assigning it again.
    Assigning a value that JSON cannot hold raises `TypeError`.

    Bluesky's own ``PersistentDict`` allows one process only, and its ``HistoryDict`` one thread.

    A file that cannot be read or written never stops a scan: the metadata then lives in memory, and the log says so.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.RLock()
        self._fork = HeldLock(self._lock)
        tell_of_forks(self._fork)
        self._values: dict[str, Any] = {}
        self._trouble = ""
        with self._tolerated("read"):
            private_database(path)
            with self._connection() as connection:
                connection.execute(_CREATE)
                rows = connection.execute("SELECT key, value FROM metadata")
                self._values = {key: json.loads(value) for key, value in rows}

    def next_scan_id(self, _: object = None) -> int:
        """Draw a scan id that no session on this file has had; made to be a RunEngine's ``scan_id_source``."""
        return self._number(_NEXT, int(self._values.get("scan_id", 0)) + 1)

    def skip_scan_ids(self, taken: int) -> None:
        """Have scan ids go on after one that is taken elsewhere, if they are not beyond it already."""
        if taken > int(self._values.get("scan_id", 0)):
            self._number(_AT_LEAST, taken)

    def _number(self, statement: str, scan_id: int) -> int:
        with self._lock:
            with self._tolerated("written"), self._connection() as connection:
                scan_id = int(connection.execute(statement, (str(scan_id),)).fetchone()[0])
            self._values["scan_id"] = scan_id
            return scan_id

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        text = json.dumps(value, default=_plain)
        with self._lock:
            # The number just drawn is on disk, and another session may have drawn a higher one since.
            drawn = key == "scan_id" and self._values.get(key) == value
            self._values[key] = value
            if not drawn:
                with self._tolerated("written"), self._connection() as connection:
                    connection.execute(_SET, (key, text))

    def __delitem__(self, key: str) -> None:
        with self._lock:
            del self._values[key]
            with self._tolerated("written"), self._connection() as connection:
                connection.execute("DELETE FROM metadata WHERE key = ?", (key,))

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        """Return the values alone: the RunEngine copies its metadata for each run."""
        return copy.deepcopy(self._values, memo)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        # A connection belongs to one thread, and the RunEngine works in another than the prompt.
        with (
            contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S)) as connection,
            connection,
        ):
            yield connection

    @contextlib.contextmanager
    def _tolerated(self, verb: str) -> Iterator[None]:
        """Say once, while it lasts, that the file will not do."""
        try:
            yield
            self._trouble = ""
        except (OSError, sqlite3.Error, ValueError) as error:
            known, self._trouble = self._trouble, str(error)
            if known:
                return
            logger.error(
                "The metadata file %s cannot be %s (%s): metadata and the scan id are lost when this session ends. "
                "Repair or remove the file and start again.",
                self._path,
                verb,
                error,
            )


def _plain(value: Any) -> Any:
    """Return a numpy scalar or array, or a path, as JSON holds it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"Metadata that outlives the session must fit JSON; a {type(value).__name__} does not: {value!r}")
