"""The files of an SQLite database: which they are, and what is saved where somebody deletes or replaces one."""

import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from bluesky_prefect.core import COMPANIONS, lock_file, private_file, sync_directory

logger = logging.getLogger(__name__)

_MALFORMED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

Identity = tuple[int, int] | None


class DatabaseFiles(NamedTuple):
    """Identities of a database's files, which tell them from others of the same names; None for a missing one."""

    main: Identity
    log: Identity
    log_index: Identity


def database_files(path: Path) -> DatabaseFiles:
    """Return which files stand at the names of a database: itself, its log (-wal), and the index of that (-shm)."""
    return DatabaseFiles(*map(_identity, _paths(path)))


def remove_stale(path: Path, former: DatabaseFiles) -> None:
    """Delete the log of a former database from beside the one that replaces it, where SQLite would mix the two.

    What another process has made for the new one stays. Ask while the former one is still open: until then no other
    file has its numbers.
    """
    for beside, identity in list(zip(_paths(path), former, strict=True))[1:]:
        if identity is not None and _identity(beside) == identity:
            beside.unlink(missing_ok=True)


def save(connection: sqlite3.Connection, path: Path, opened: DatabaseFiles) -> bool:
    """Put all that a connection still sees in the place of its database, whose log or index was deleted.

    Who has the database open goes on with a deleted log, and whoever comes later does not see it. The new file has
    neither trouble. Who waits for the write lock of the former has to ask again for the files once he has it.

    Returns False if there is nothing to be saved: others were faster, or have overwritten what the connection saw.

    Raises
    ------
    sqlite3.Error, OSError
        If it cannot be done now; what is in the log is in this connection only.
    """
    log = _paths(path)[1]
    if _identity(log) not in (None, opened.log) and log.stat().st_size:
        return False  # somebody writes there already
    copy = path.with_name(f"{path.name}-saved-{secrets.token_hex(4)}")
    try:
        private_file(copy)
        while True:
            [before] = connection.execute("PRAGMA data_version").fetchone()
            with closing(sqlite3.connect(copy)) as target:
                # Outside a transaction: it would wait for the end of its own.
                connection.backup(target, progress=_raise_if_busy)
                if _trouble(target):
                    return False
            connection.execute("BEGIN IMMEDIATE")
            [after] = connection.execute("PRAGMA data_version").fetchone()
            if before == after:
                break
            connection.execute("ROLLBACK")
        former = database_files(path)
        if former.main != opened.main:
            return False
        copy.replace(path)
        sync_directory(path.parent)
        remove_stale(path, former)  # not before: a process killed here leaves a log that changes nothing
        return True
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHORT_READ or is_malformed(error):
            return False
        raise
    finally:
        copy.unlink(missing_ok=True)


def is_malformed(error: BaseException) -> bool:
    """Tell whether an error says that a file is no database, or a spoiled one."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _MALFORMED


def set_aside_malformed(path: Path) -> None:
    """Rename a file that is no database, or a spoiled one; whoever opens its name next begins anew.

    It is asked first, by a connection of its own: what an older one says may be due to what happened meanwhile. Of
    several processes one does it. Raises `OSError` if it cannot be renamed.
    """
    with _alone(path.parent):
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
                trouble = _trouble(connection)
        except sqlite3.OperationalError:  # it is not there, or locked: nothing is known of it
            return
        if trouble is None:
            return
        aside = path.with_name(f"{path.name}-malformed-{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(2)}")
        path.rename(aside)
        for suffix in COMPANIONS:
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    logger.error(
        "Outbox %s: it was malformed (%s) and is kept as %s; a new one is begun. 'bluesky-prefect reconcile' finds the "
        "runs that were not sent from it, and starts them with --submit. Look for a failing disk, or for somebody who "
        "copied a file over it.",
        path,
        trouble,
        aside,
    )


def _raise_if_busy(status: int, _remaining: int, _total: int) -> None:
    if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise sqlite3.OperationalError("database is locked")


def _trouble(connection: sqlite3.Connection) -> str | None:
    try:
        [said] = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if not is_malformed(error):
            raise
        return str(error)
    return None if said == "ok" else str(said)


@lru_cache(maxsize=16)  # asked for around each transaction
def _paths(path: Path) -> tuple[Path, Path, Path]:
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _identity(path: Path) -> Identity:
    try:
        status = os.stat(path)  # noqa: PTH116 - half as long as Path.stat
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold a directory against all who do the same. The database itself is not opened: closing it drops its locks."""
    opened = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lock_file(opened)
        yield
    finally:
        os.close(opened)
