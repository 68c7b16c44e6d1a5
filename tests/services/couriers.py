"""The couriers that sessions of tests have started."""

import contextlib
import os
import signal
from pathlib import Path

import psutil

from bluesky_prefect.core import Settings
from bluesky_prefect.courier import running_courier


def courier_pid(state_directory: Path) -> int | None:
    """Return the pid of a state directory's courier; None if there is none."""
    found = running_courier(Settings(state_directory=state_directory))
    return None if found is None else int(found.process.rpartition(":")[2])


def stop_courier(state_directory: Path) -> None:
    """End the courier of a state directory, if there is one, and nothing else of it."""
    if (pid := courier_pid(state_directory)) is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            os.kill(pid, signal.SIGTERM)
            process.wait(30)
