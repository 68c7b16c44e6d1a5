"""The one courier of a state directory, as others see it."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from bluesky_prefect.core import BlueskyPrefectError, ConfigurationError, Settings, lock_file, private_file

logger = logging.getLogger(__name__)

_FILE = "courier.lock"
_LOOK_S = 0.01


@dataclass(frozen=True)
class RunningCourier:
    """A courier at work.

    Attributes
    ----------
    process : str
        Its ``host:pid``.
    prefect : str or None
        Address of the Prefect API that it sends to, as `comparable_url` writes it.
    tiled : str
        Address of the Tiled server that it writes to, without secrets; empty if it looks for the local stack's.
    """

    process: str
    prefect: str | None
    tiled: str


class CourierRuns(BlueskyPrefectError):
    """The state directory has a courier already."""


def running_courier(settings: Settings) -> RunningCourier | None:
    """Return the courier of the state directory, or None if none is at work."""
    path = settings.state_directory / _FILE
    try:
        with path.open("r+b") as file:  # as NFS wants it, which else locks nothing
            try:
                # Shared, so that those who look do not keep a courier from starting.
                lock_file(file, shared=True)
            except BlockingIOError:
                return _read(path)
    except OSError:
        pass
    return None


@contextmanager
def only_courier(settings: Settings, *, prefect: str | None, tiled: str) -> Iterator[IO[bytes]]:
    """Be the courier of the state directory while the block runs, and hold its lock file.

    Raises `CourierRuns` if there is one.
    """
    path = settings.state_directory / _FILE
    try:
        private_file(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}. Choose another one.") from error
    with path.open("r+b", buffering=0) as file:
        while True:
            try:
                lock_file(file)
                break
            except BlockingIOError:
                if running := running_courier(settings):
                    raise CourierRuns(
                        f"A courier ({running.process}) is at work for {settings.state_directory} already."
                    ) from None
                time.sleep(_LOOK_S)  # somebody has only looked
        this_process = f"{socket.gethostname()}:{os.getpid()}"
        try:
            file.truncate()
            file.write(json.dumps(asdict(RunningCourier(this_process, prefect, tiled))).encode())
        except OSError as error:
            # Of a full disk, on which it may make room. Sessions send by themselves beside it then.
            logger.warning("%s cannot be written, so others do not know where this courier sends to: %s", path, error)
        yield file


def is_theirs(lock: IO[bytes], settings: Settings) -> bool:
    """Tell whether the state directory has another lock file than the one held, or none: it was moved, or deleted."""
    try:
        return not os.path.samestat(os.fstat(lock.fileno()), (settings.state_directory / _FILE).stat())
    except FileNotFoundError:
        return True
    except OSError:  # a disk that does not answer now
        return False


def _read(path: Path) -> RunningCourier:
    try:
        return RunningCourier(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):  # it is being written at this moment, or by another version
        return RunningCourier("", None, "")
