"""Files and directories that only their owner may read."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bluesky_prefect import private
from bluesky_prefect.exceptions import StackError


def private_directory(path: Path) -> Path:
    """Make a directory that only its owner can enter, whatever the umask.

    Parents that do not exist yet are made with the user's own defaults.

    Raises
    ------
    StackError
        If it cannot be made, or is not this user's to close.
    """
    try:
        private.private_directory(path)
    except OSError as error:
        raise StackError(
            f"Cannot make the private directory {path}: {error.strerror}. "
            "Set BLUESKY_PREFECT_STATE_DIRECTORY to one that you own."
        ) from error
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file with one of mode 0600; a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


@contextlib.contextmanager
def exclusive(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold a lock file against other processes; the system frees it if this process dies.

    Raises
    ------
    StackError
        If somebody else holds it for longer than `timeout_s`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
