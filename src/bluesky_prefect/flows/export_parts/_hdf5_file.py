"""A new HDF5 file on a disk that may be full."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import h5py


@contextmanager
def new_hdf5(file: BinaryIO) -> Iterator["h5py.File"]:
    """Make an HDF5 file of an empty file that is open for reading and writing; nothing is locked.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    import h5py

    disk = _Disk(file.fileno())
    try:
        with h5py.File(disk, "w") as root:
            yield root
    finally:
        if disk.error is not None:
            raise disk.error


class _Disk:
    """An open file as HDF5 takes it, whose first error is kept.

    It is not raised at once: HDF5 would try to write the rest again and again, until the process ends.
    """

    def __init__(self, descriptor: int) -> None:
        self.error: OSError | None = None
        self._descriptor = descriptor
        self._position = self._size = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        part = os.pread(self._descriptor, self._size if size < 0 else size, self._position)
        self._position += len(part)
        return part

    def readinto(self, buffer: memoryview) -> int:
        part = self.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def write(self, data: bytes | memoryview) -> int:
        left = memoryview(data)
        while len(left):
            written = len(left) if self.error else self._write(left)
            left = left[written:]
            self._position += written
        self._size = max(self._size, self._position)
        return len(data)

    def _write(self, data: memoryview) -> int:
        try:
            return os.pwrite(self._descriptor, data, self._position)
        except OSError as error:
            self.error = error
            return 0

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self.error = self.error or error
        return self._size

    def flush(self) -> None:
        """Do nothing: nothing is held back."""
