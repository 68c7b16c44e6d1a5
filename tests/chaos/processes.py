"""Processes that a campaign starts, holds and kills."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.services.prefect_process import wait_until

ROOT = Path(__file__).parents[2]
# The file that keeps executors from taking new flow runs.
PAUSED = "paused"
_PR_CAPBSET_DROP = 24
_OVERRIDES = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
_TIMEOUT_S = 120.0


def obey_permissions() -> None:
    """Have the program that is executed next obey file permissions, also where root executes it."""
    libc = ctypes.CDLL(None)
    for capability in _OVERRIDES:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused to all but root, who alone needs it


class ChaosProcess:
    """A Python module run as a process, with its output in a log file, but for what it answers if it `talks`."""

    def __init__(
        self, module: str, arguments: list[str], environment: dict[str, str], log: Path, *, talks: bool = False
    ) -> None:
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else stream,
                stderr=stream,
                text=True,
                preexec_fn=obey_permissions,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self._leave()

    def _leave(self) -> None:
        self.process.wait(_TIMEOUT_S)
        for stream in filter(None, (self.process.stdin, self.process.stdout)):
            with suppress(BrokenPipeError):  # a command that nobody has read
                stream.close()

    @contextmanager
    def largest_file(self, size_bytes: int) -> Iterator[None]:
        """Have its writes beyond `size_bytes` fail, as on a full disk."""
        before = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size_bytes, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, before)


class AcquisitionProcess(ChaosProcess):
    """The other end of `tests.chaos.acquisition`."""

    def __init__(self, ledger: Path, environment: dict[str, str], log: Path) -> None:
        super().__init__("tests.chaos.acquisition", [str(ledger)], environment, log, talks=True)
        assert self._line() == "ready", log.read_text()[-2000:]

    def say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def count(self, runs: int) -> None:
        """Do `runs` scans, unless it dies before."""
        self.start(runs)
        self.finish()

    def start(self, runs: int) -> None:
        """Begin `runs` scans."""
        self.say(f"count {runs}")

    def finish(self) -> None:
        """Wait until the scans that were begun are done, or it is dead."""
        self._line()

    def died(self) -> None:
        """Wait until it is dead by its own hand."""
        self.process.wait(_TIMEOUT_S)
        self._leave()
        assert self.process.returncode == -signal.SIGKILL, self.process.returncode

    def waiting(self) -> int | None:
        """Return how many submissions wait in the outbox; None if it cannot be read."""
        self.say("counts")
        word = self._line().split()[0]
        return None if word == "?" else int(word)

    def sent_all(self) -> None:
        """Wait until nothing waits in the outbox."""
        wait_until(lambda: self.waiting() == 0, timeout_s=_TIMEOUT_S)

    def end(self) -> None:
        """Let it end as a script does."""
        if self.alive:
            self.say("end")
        self._leave()

    def _line(self) -> str:
        return self.process.stdout.readline().strip()
