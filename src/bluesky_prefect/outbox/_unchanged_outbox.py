"""An outbox that is read and not touched: neither made, nor closed to others, nor moved on to another format."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bluesky_prefect.core import OutboxError
from bluesky_prefect.outbox._entry_lookup import EntryLookup


class _ReadOnlyFile:
    """An SQLite file, opened for reading alone."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    def read(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """Run a query; raises `OutboxError` if the file cannot be read."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise OutboxError(f"Outbox {self._path}: it cannot be read: {error}.") from error


@contextmanager
def unchanged_outbox(path: Path) -> Iterator[EntryLookup | None]:
    """Look into an outbox without changing anything on disk; None if there is no such file.

    Raises `OutboxError` if it cannot be opened.
    """
    try:
        if not path.exists():
            yield None
            return
        # Where nobody has it open there is no log, and SQLite would make one even for reading.
        has_log = path.with_name(f"{path.name}-wal").exists()
        uri = f"{path.absolute().as_uri()}?{'mode=ro' if has_log else 'mode=ro&immutable=1'}"
        connection = sqlite3.connect(uri, uri=True)
    except (OSError, sqlite3.Error) as error:
        raise OutboxError(f"Outbox {path}: it cannot be opened: {error}.") from error
    with closing(connection):
        connection.row_factory = sqlite3.Row
        yield EntryLookup(_ReadOnlyFile(path, connection), time.time)
