"""'bluesky-prefect listen' as a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from bluesky_prefect import Outbox
from bluesky_prefect.outbox import Entry
from tests.services.prefect_process import wait_until

_COMMAND = (sys.executable, "-m", "bluesky_prefect", "listen")


class Listener:
    """A listener with a state directory of its own; no Prefect answers it, so that what it starts stays in its outbox.

    Parameters
    ----------
    state : Path
        Its state directory.
    *arguments : str
        What follows ``bluesky-prefect listen``.
    command : sequence of str
        What runs in the place of ``bluesky-prefect listen``.
    environment : str
        More variables.
    """

    def __init__(self, state: Path, *arguments: str, command: tuple[str, ...] = _COMMAND, **environment: str) -> None:
        self.log = state / "listener.log"
        state.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "BLUESKY_PREFECT_STATE_DIRECTORY": str(state),
                    "PREFECT_API_URL": "http://127.0.0.1:9/api",
                    **environment,
                },
            )
        self._outbox = Outbox(state / "outbox.sqlite")

    def entries(self) -> list[Entry]:
        """Return what is in its outbox, newest first."""
        return self._outbox.entries()

    def uids(self) -> list[str]:
        """Return the runs in its outbox, newest first."""
        return [entry.run_uid for entry in self.entries()]

    def wait_for(self, *uids: str) -> None:
        """Wait until its outbox has these runs."""
        self.wait_until(lambda: set(uids) <= set(self.uids()))

    def wait_for_line(self, text: str) -> None:
        """Wait until its log says something."""
        self.wait_until(lambda: text in self.log.read_text())

    def wait_until(self, what: Any) -> None:
        """Wait, and show its log if that is in vain."""
        try:
            wait_until(what, 60)
        except AssertionError as error:
            raise AssertionError(f"{error}; the listener says: {self.log.read_text()[-3000:]}") from None

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def close(self) -> int:
        """Stop it as a service manager does, and return its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        self._outbox.close()
        self.process.send_signal(number)
        return self.process.wait(60)
