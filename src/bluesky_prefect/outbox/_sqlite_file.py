"""A connection to an SQLite file, shared by threads, and as durable as asked."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from bluesky_prefect.core import HeldLock, OutboxError, ToldOfForks, gives_group_late, private_database, tell_of_forks
from bluesky_prefect.outbox._database_files import (
    DatabaseFiles,
    database_files,
    is_malformed,
    remove_stale,
    save,
    set_aside_malformed,
)
from bluesky_prefect.outbox._entry import FORMATS, INDEXES
from bluesky_prefect.outbox._format_files import OutboxFile

logger = logging.getLogger(__name__)

# How long to wait for another process's transaction; those of an outbox take milliseconds. A process that was stopped
# in the middle of one must not hold up a RunEngine for longer: the run is then kept in memory for the while.
_DURABLE_BUSY_TIMEOUT_S = 1.0
_BUSY_TIMEOUT_S = 5.0
_OPEN_POLL_S = 0.01


class SQLiteFile(ToldOfForks):
    """A connection that several threads share, opened on first use, and again after it could not be.

    Before each transaction it is asked whether the files are still those that were opened. What was in a log that
    somebody deleted is saved; where the file itself was deleted or replaced, what stands at its name counts; one that
    is malformed is set aside, and the next transaction begins a new one.

    Parameters
    ----------
    file : OutboxFile
        The file; made, with its directory (0700), if it is not there. Without a path everything is kept in memory.
    durable : bool
        Whether a transaction waits until it is on disk.
    keep_format : bool, optional
        Leave the file in the older format that it is in.
    """

    def __init__(self, file: OutboxFile, *, durable: bool, keep_format: bool = False) -> None:
        self._outbox_file = file
        self._durable = durable
        self._keep_format = keep_format
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._files: DatabaseFiles | None = None
        self._fork = HeldLock(self._lock)
        self._parents: sqlite3.Connection | None = None
        tell_of_forks(self)

    @contextmanager
    def change(self, trouble: str) -> Iterator[sqlite3.Connection]:
        """Run a transaction that writes.

        If the file cannot be opened or written, nothing is changed, and an `OutboxError` says `trouble` and its cause.
        """
        with self._opened(trouble, writing=True) as connection, _committed(connection):
            yield connection

    def read(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """Run a query; raises `OutboxError` if the file cannot be opened or read."""
        with self._opened("it cannot be read") as connection:
            return connection.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file. What is in it stays; what is in memory is gone."""
        with self._lock:
            self._drop()

    def __del__(self) -> None:
        """Close the file of an outbox that nobody has closed, and nobody can use any more."""
        self._drop()

    def before_fork(self) -> None:
        """Close the file: SQLite knows its locks by process, and takes those of the parent for the child's own.

        The child would find the file locked for ever, or write to a log that others believe to be out of use.
        """
        self._fork.before_fork()
        if self._fork.held and self._path is not None:
            self._drop()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on: the file is opened again when it is needed. What is in memory is the parent's."""
        if in_child and self._fork.held:
            self._drop()
        elif in_child:
            # Another thread's transaction hangs: it can be neither ended nor closed here.
            self._parents, self._connection, self._lock = self._connection, None, threading.Lock()
        self._fork.after_fork(in_child=in_child)

    @property
    def _path(self) -> Path | None:
        return self._outbox_file.path

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _opened(self, trouble: str, *, writing: bool = False) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._locked() if writing else self._current()
            except (sqlite3.Error, OSError) as error:
                if self._path is not None and not isinstance(error, _NotSaved):
                    self._drop()  # a new connection has no memory of the trouble
                    if writing:  # who only looks changes nothing
                        self._set_aside_if(error, self._path)
                raise OutboxError(f"Outbox {self._path or 'in memory'}: {trouble}: {error}.") from error

    def _locked(self) -> sqlite3.Connection:
        """Return the connection in a transaction of its own, on files that nobody has replaced meanwhile."""
        while True:
            connection = self._current()
            connection.execute("BEGIN IMMEDIATE")
            if self._path is None or database_files(self._path) == self._files:
                return connection
            connection.execute("ROLLBACK")

    def _current(self) -> sqlite3.Connection:
        """Return the connection to what stands at the file's name."""
        if self._parents is not None and self._path is not None:
            raise OSError("this process was forked in the middle of a transaction, and cannot use the file")
        if self._connection is not None and self._path is not None and self._files is not None:
            self._leave_former(self._connection, self._path, self._files)
        if self._connection is None:
            self._connection = self._open()
            self._files = None if self._path is None else database_files(self._path)
        return self._connection

    def _leave_former(self, connection: sqlite3.Connection, path: Path, opened: DatabaseFiles) -> None:
        """Close files that are no longer all at their names."""
        present = database_files(path)
        if present == opened:
            return
        if present.main != opened.main:
            remove_stale(path, opened)  # the file was deleted or replaced: what is written to the old one is lost
        else:
            self._save(connection, path, opened)
        self._drop()

    def _save(self, connection: sqlite3.Connection, path: Path, opened: DatabaseFiles) -> None:
        try:
            saved = save(connection, path, opened)
        except (sqlite3.Error, OSError) as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise _NotSaved(f"its -wal or -shm was deleted, and what was in it cannot be saved: {error}") from error
        if saved:
            logger.warning("Outbox %s: its -wal or -shm was deleted while it was open; nothing is lost.", path)

    def _set_aside_if(self, error: BaseException, path: Path) -> None:
        if is_malformed(error):
            try:
                set_aside_malformed(path)
            except (sqlite3.Error, OSError) as trouble:
                logger.debug("Outbox %s: not set aside: %s", path, trouble)

    def _open(self) -> sqlite3.Connection:
        path = self._path
        timeout_s = _DURABLE_BUSY_TIMEOUT_S if self._durable else _BUSY_TIMEOUT_S
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self._open_now(path, timeout_s)
            except (PermissionError, sqlite3.OperationalError) as error:
                # Somebody else opens it at the same moment: who changes to WAL does not wait for others by itself.
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                theirs = busy or (path is not None and gives_group_late(path.parent))
                if not theirs or time.monotonic() > deadline:
                    raise
                time.sleep(_OPEN_POLL_S)

    def _open_now(self, path: Path | None, timeout_s: float) -> sqlite3.Connection:
        if path is not None:
            private_database(path)
        connection = sqlite3.connect(
            path or ":memory:", timeout=timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            self._set_up(connection)
            if path is not None:
                private_database(path)  # once more, for what SQLite has made beside it
        except _NewerFormat as error:
            connection.close()
            if not self._outbox_file.step_aside(path, error.version):
                raise
            return self._open()
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        _version(connection)  # before anything is changed in a file that a newer version has made
        # With WAL a commit costs one fsync, and readers and the writer do not wait for each other. Where WAL is
        # impossible SQLite keeps its rollback journal: slower, as safe.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        if self._durable:
            # Copying the log back into the file is left to the connection that does not wait for the disk.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._migrate(connection)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if self._keep_format:
            return
        if _version(connection) < len(FORMATS):
            connection.execute("BEGIN IMMEDIATE")
            with _committed(connection):
                # Asked again: another process may have done it meanwhile.
                for statement in chain.from_iterable(FORMATS[_version(connection) :]):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {len(FORMATS)}")
        for statement in INDEXES:
            connection.execute(statement)


@contextmanager
def _committed(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit a transaction at the end, or roll it back after an error."""
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version > len(FORMATS):
        raise _NewerFormat(version)
    return version


class _NewerFormat(sqlite3.DatabaseError):
    """The file is in a format that this version does not know."""

    def __init__(self, version: int) -> None:
        super().__init__(f"it was written by a newer bluesky-prefect (format {version}); upgrade this one")
        self.version = version


class _NotSaved(sqlite3.OperationalError):
    """A deleted log could not be saved: only this connection holds it, and has to stay open for the next try."""
