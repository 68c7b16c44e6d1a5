"""Files and directories that only their owner may read, or the group that shares the state directory."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bluesky_prefect.core import StackError, lock_file, private_directory, private_file


def make_private_directory(path: Path) -> Path:
    """Make a directory that only its owner can enter, or the group that shares the one around it, whatever the umask.

    See `private_directory`. Raises `StackError` if it cannot be made, or is not this user's to close.
    """
    try:
        private_directory(path)
    except OSError as error:
        raise StackError(
            f"Cannot make the private directory {path}: {error.strerror}. "
            "Set BLUESKY_PREFECT_STATE_DIRECTORY to one that you own."
        ) from error
    return path


@contextlib.contextmanager
def exclusive(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold a lock file against other processes; the system frees it if this process dies.

    Raises `StackError` if somebody else holds it for longer than `timeout_s`, or it is closed to this user.
    """
    try:
        private_file(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise StackError(f"Cannot lock {path}: {error.strerror}.") from error
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                lock_file(descriptor)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StackError(
                        f"Another 'bluesky-prefect up' or 'down' has been at work for {timeout_s:.0f} s "
                        f"(it holds {path}). Wait for it, or stop it."
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)
