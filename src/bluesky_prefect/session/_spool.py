"""The documents of a run that goes on, on disk or, where the disk refuses, in memory."""

import contextlib
import logging
import os
import weakref
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from bluesky_prefect.core import ToldOfForks, jsonable, lock_file, private_file, tell_of_forks
from bluesky_prefect.tiled_api import documents_in

logger = logging.getLogger(__name__)


class Spool(ToldOfForks):
    """A file of documents, made when the first comes: msgpack, since it keeps numpy arrays and bytes as they are.

    It is held while the run goes on, so that nobody takes it to Tiled meanwhile. What a disk that is full or read-only
    does not take is kept in memory, and an ERROR says so.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._whole = 0  # bytes of whole documents in the file; a write that failed may have left a part of one
        self._memory: BytesIO | None = None

    def write(self, name: str, doc: dict[str, Any]) -> None:
        """Add a document."""
        packed = _pack(name, doc)
        if self._memory is None:
            try:
                self._append(packed)
                return
            except OSError as error:
                self._memory = BytesIO()
                logger.error("Documents cannot be kept in %s, only in memory: %s", self._path, error)
        self._memory.write(packed)

    def keep(self) -> Path | None:
        """Bring everything to the disk, and return the file and let go of it; None if the disk (still) refuses."""
        try:
            file = self._opened()
            if self._memory is not None:
                file.truncate(self._whole)
                self._append(self._memory.getvalue())
                self._memory = None
            os.fsync(file.fileno())
        except OSError:
            return None
        self._close()
        return self._path

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield all documents, ready for another callback."""
        packed = BytesIO()
        if self._whole:
            with self._path.open("rb") as file:
                packed.write(file.read(self._whole))
        packed.write(self._memory.getvalue() if self._memory is not None else b"")
        packed.seek(0)
        yield from documents_in(packed)

    def discard(self) -> None:
        """Delete everything."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._close()

    def after_fork(self, *, in_child: bool) -> None:
        """Let go of the file in a child: it would be held for as long as that lives."""
        if in_child:
            self._close()

    def _append(self, packed: bytes) -> None:
        file, left = self._opened(), memoryview(packed)
        while left:  # a disk that is nearly full takes a part
            left = left[file.write(left) :]
        self._whole += len(packed)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            private_file(self._path)
            self._file = self._path.open("ab", buffering=0)
            # A run may never stop, and its recording be forgotten.
            weakref.finalize(self, self._file.close)
            lock_file(self._file)
            tell_of_forks(self)
        return self._file

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
