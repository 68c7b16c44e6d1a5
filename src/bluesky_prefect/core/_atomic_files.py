"""Files that appear whole or not at all, and locks on files."""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from bluesky_prefect.core._export_rights import AS_UMASK, ExportRights
from bluesky_prefect.core._private_files import private_file

TEMPORARY = ".bluesky-prefect-"
# The last is that of NFS, for files that are open for reading only, as directories are.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}


@contextmanager
def whole_file(path: Path, *, private: bool = False, rights: ExportRights | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name, flushed to the disk, when the block ends without an error.

    What is written can be read back. Others may read it as the umask lets them, or as its `rights` say; where it is
    `private`, see `private_file`.
    """
    with _temporary(path) as temporary:
        if private:
            private_file(temporary)
            opened = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        else:
            opened = (rights or AS_UMASK).open_file(temporary)
        with os.fdopen(opened, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_if_possible(path.parent)


def write_whole(path: Path, content: bytes, *, private: bool = False, rights: ExportRights | None = None) -> None:
    """Write a file so that it is there in full or, whatever happens meanwhile, as it was before; see `whole_file`."""
    with whole_file(path, private=private, rights=rights) as stream:
        stream.write(content)


def write_first(path: Path, content: bytes, *, private: bool = False, rights: ExportRights | None = None) -> None:
    """Write a file as `write_whole` does, but never over one that is there: of all who do so at once, one succeeds.

    Raises
    ------
    FileExistsError
        If it is there.
    OSError
        If it cannot be written, or the file system knows no hard links.
    """
    with _temporary(path) as temporary:
        write_whole(temporary, content, private=private, rights=rights)
        path.hardlink_to(temporary)  # unlike a replacement, it never overwrites
    _sync_if_possible(path.parent)


def sync_directory(directory: Path) -> None:
    """Make new names in a directory survive a power cut; raises `OSError` where the file system cannot do so."""
    opened = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def lock_file(file: IO[bytes] | int, *, wait: bool = False, shared: bool = False) -> None:
    """Lock an open file (or its descriptor) against all who do the same, until it is closed or this process dies.

    Those who share it hold off only those who do not.

    On a file system that knows no locks nobody is held off: to refuse it would lose runs.

    Raises
    ------
    BlockingIOError
        If somebody else holds it, and `wait` does not say to wait for that.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    # Not tempfile: its files are for their owner only, and those of a group or of everybody are wanted, too.
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_if_possible(directory: Path) -> None:
    with suppress(OSError):
        sync_directory(directory)
