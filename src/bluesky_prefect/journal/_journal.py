"""The journal of a run that goes on."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from bluesky_prefect.core import lock_file, private_file, sync_directory
from bluesky_prefect.journal._frames import frame
from bluesky_prefect.journal._names import journal_name

logger = logging.getLogger(__name__)

# Journals of one run, each of which a process has written that emitted it anew.
_MAX_COPIES = 100


class AlreadyRecorded(Exception):
    """Another recorder is writing the journal of this run."""


class Journal:
    """The file of one run, to which its documents are appended as they come.

    What `append` returned from survives the death of this process, and what `sync` returned true for survives a power
    cut. What the disk refuses is kept in memory, an ERROR says so, and `sync` tries again. The file is locked until it
    is closed, or this process dies.

    Parameters
    ----------
    directory : Path
        Where journals are; made if need be.
    run_uid : str
        The run, of which other journals may be there.

    Raises
    ------
    AlreadyRecorded
        If another recorder is at work on this run.
    """

    def __init__(self, directory: Path, run_uid: str) -> None:
        self.run_uid = run_uid
        # The file, or None as long as the disk has refused it.
        self.path: Path | None = None
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._whole = 0  # bytes of whole frames in the file; a write that failed may have left a part of one
        self._memory: BytesIO | None = None
        self._lock = threading.Lock()
        # Held while the disk is waited for, so that nobody believes it done before, or closes the file meanwhile.
        self._syncing = threading.Lock()
        self._dirty = False
        self._is_new = False
        with self._kept_in_memory():
            self._file = self._opened()

    def append(self, name: str, doc: dict[str, Any]) -> None:
        """Add a document; never waits for the disk."""
        packed = frame(name, doc)
        with self._lock:
            self._dirty = True
            if self._memory is None and self._file is not None:
                with self._kept_in_memory():
                    self._write(self._file, packed)
                    return
            if self._memory is not None:
                self._memory.write(packed)

    def sync(self) -> bool:
        """Have all that was appended on the disk, and return whether it is there; waits for the disk."""
        with self._syncing:
            return self._sync()

    def _sync(self) -> bool:
        with self._lock:
            if not self._dirty:
                return self._memory is None
            try:
                if self._file is None:
                    self._file = self._opened()
                if self._memory is not None:
                    self._file.truncate(self._whole)
                    self._write(self._file, self._memory.getvalue())
                    self._memory = None
                    logger.warning("The documents of run %s are in %s now.", self.run_uid, self._file.name)
                descriptor = self._file.fileno()
                self._dirty, is_new, self._is_new = False, self._is_new, False
            except OSError:
                return False
            except AlreadyRecorded:
                # Of those that the disk refused, another recorder was faster.
                self._memory, self._dirty = None, False
                return True
        try:
            # Outside the lock: documents go on coming.
            os.fdatasync(descriptor)
            if is_new:
                with contextlib.suppress(OSError):  # some file systems cannot
                    sync_directory(self._directory)
        except OSError as error:
            logger.error("The disk refuses documents of run %s: %s", self.run_uid, error)
            self._dirty = True
            return False
        return True

    def close(self) -> None:
        """Let go of the file; what only memory holds is lost."""
        with self._syncing, self._lock:
            self.let_go()

    def let_go(self) -> None:
        """Close the file in a child, where nobody would ever free the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextlib.contextmanager
    def _kept_in_memory(self) -> Iterator[None]:
        """Keep documents in memory from here on if the disk refuses one."""
        try:
            yield
        except OSError as error:
            self._memory = BytesIO()
            logger.error(
                "Documents of run %s cannot be written to %s, and are kept in memory: %s",
                self.run_uid,
                self._directory,
                error,
            )

    def _write(self, file: IO[bytes], packed: bytes) -> None:
        left = memoryview(packed)
        while left:  # a disk that is nearly full takes a part
            left = left[file.write(left) :]
        self._whole += len(packed)

    def _opened(self) -> IO[bytes]:
        for number in range(_MAX_COPIES):
            path = self._directory / journal_name(self.run_uid, number)
            private_file(path)
            file = path.open("ab", buffering=0)
            try:
                lock_file(file)
            except BlockingIOError:
                file.close()
                raise AlreadyRecorded(self.run_uid) from None
            if file.tell() == 0:
                self._is_new = True
                self.path = path
                return file
            file.close()
        raise FileExistsError(f"There are {_MAX_COPIES} journals of run {self.run_uid} already.")
