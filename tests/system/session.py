"""An acquisition process, held by its test."""

import os
import resource
import subprocess
import sys
from pathlib import Path

ACQUISITION = Path(__file__).with_name("acquisition.py")
REQUEST_TIMEOUT_S = 3


class Acquisition:
    """The other end of acquisition.py."""

    def __init__(
        self, state: Path, environment: dict[str, str], *deployments: str, largest_file_bytes: int | None = None
    ) -> None:
        environment = {
            **os.environ,
            **environment,
            "BLUESKY_PREFECT_STATE_DIRECTORY": str(state),
            "BLUESKY_PREFECT_RETRY_INITIAL_S": "0.2",
            "BLUESKY_PREFECT_RETRY_MAX_S": "1",
            "BLUESKY_PREFECT_REQUEST_TIMEOUT_S": str(REQUEST_TIMEOUT_S),
            "BLUESKY_PREFECT_MISSING_DEPLOYMENT_RETRY_S": "0.5",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(ACQUISITION), *deployments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if largest_file_bytes is not None:
            # Writes beyond it fail, as on a full disk.
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))
        assert self._line() == "ready"

    def count(self, runs: int) -> list[str]:
        """Do `runs` runs and return their uids."""
        self._say(f"count {runs}")
        return [self._line() for _ in range(runs)]

    def run(self, kind: str) -> str:
        """Do one run with metadata of a kind and return its uid."""
        self._say(kind)
        return self._line()

    def outbox_counts(self) -> tuple[int, ...]:
        """Return how many submissions wait, are sent, are dead."""
        self._say("counts")
        return tuple(int(word) for word in self._line().split())

    def end(self) -> str:
        """Let it end as a script does; return what it logged."""
        self._say("end")
        return self._leave()

    def kill(self) -> None:
        self.process.kill()
        self._leave()

    def _leave(self) -> str:
        _, logged = self.process.communicate(timeout=60)
        return logged

    def _say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _line(self) -> str:
        line = self.process.stdout.readline().strip()
        assert line, self.process.stderr.read()
        return line
