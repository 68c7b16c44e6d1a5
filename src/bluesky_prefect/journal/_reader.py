"""Journals, as the one who takes them to Tiled reads them."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bluesky_prefect.core import lock_file
from bluesky_prefect.journal._frames import documents

_SILENT_S = 3600.0


class JournalReader:
    """Reads the journal of a run, also while it is written; to be closed.

    Raises `OSError` where the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # For writing too, which NFS asks for before it locks a file.
        self._file = path.open("r+b")

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the documents that have come since this was last asked; the last one may be cut short still.

        Raises
        ------
        JournalDamaged
            If there is something else; all before it has been yielded.
        """
        return documents(self._file)

    @property
    def position(self) -> int:
        """Size of what was read of the file, in bytes."""
        return self._file.tell()

    def is_written(self) -> bool:
        """Tell whether the run's session is still at work on it; if not, this holds the file from now on.

        Where the file system knows no locks, nobody can tell; it counts as written to until an hour after it was.
        """
        try:
            lock_file(self._file)
        except BlockingIOError:
            return True
        return not self._is_held() and time.time() - self.path.stat().st_mtime < _SILENT_S

    def _is_held(self) -> bool:
        """Tell whether others find the lock that this has, as they do not on every file system."""
        with self.path.open("r+b") as another:
            try:
                lock_file(another)
            except BlockingIOError:
                return True
        return False

    def rewind(self) -> None:
        """Begin with the first document again."""
        self._file.seek(0)

    def close(self) -> None:
        """Close the file, for others to read it."""
        self._file.close()
