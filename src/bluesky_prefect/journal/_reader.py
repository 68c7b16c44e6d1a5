"""Journals, as the one who takes them to Tiled reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bluesky_prefect.core import lock_file
from bluesky_prefect.journal._frames import documents


class JournalReader:
    """Reads the journal of a run, also while it is written; to be closed.

    Raises `OSError` where the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the documents that have come since this was last asked; the last one may be cut short still.

        Raises
        ------
        JournalDamaged
            If there is something else; all before it has been yielded.
        """
        return documents(self._file)

    def is_written(self) -> bool:
        """Tell whether the run's session is still at work on it; if not, this holds the file from now on."""
        try:
            lock_file(self._file)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        """Close the file, for others to read it."""
        self._file.close()
