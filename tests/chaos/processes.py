"""Processes that a campaign starts, holds and kills."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.services.prefect_process import wait_until

if TYPE_CHECKING:
    from tests.chaos.beamline import Beamline

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
        self,
        module: str,
        arguments: list[str],
        environment: dict[str, str],
        log: Path,
        *,
        talks: bool = False,
        pass_fds: Sequence[int] = (),
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
                pass_fds=pass_fds,
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

    def died(self) -> None:
        """Wait until it is dead by its own hand."""
        self.process.wait(_TIMEOUT_S)
        self._leave()
        assert self.process.returncode == -signal.SIGKILL, self.process.returncode

    @contextmanager
    def largest_file(self, size_bytes: int) -> Iterator[None]:
        """Have its writes beyond `size_bytes` fail, as on a full disk."""
        with self._limited(resource.RLIMIT_FSIZE, size_bytes):
            yield

    @contextmanager
    def more_files(self, number: int) -> Iterator[None]:
        """Let it open so many files more than it has open now."""
        opened = max(int(one.name) for one in Path(f"/proc/{self.pid}/fd").iterdir())
        with self._limited(resource.RLIMIT_NOFILE, opened + 1 + number):
            yield

    @contextmanager
    def _limited(self, what: int, limit: int) -> Iterator[None]:
        before = resource.prlimit(self.pid, what)
        resource.prlimit(self.pid, what, (limit, before[1]))
        try:
            yield
        finally:
            if self.alive:
                resource.prlimit(self.pid, what, before)


class AcquisitionProcess(ChaosProcess):
    """The other end of `tests.chaos.acquisition`."""

    def __init__(self, beamline: "Beamline", environment: dict[str, str], log: Path) -> None:
        self._beamline = beamline
        reader, writer = os.pipe()
        arguments = [str(beamline.root / "ledger"), str(writer), str(beamline.info.images)]
        super().__init__("tests.chaos.acquisition", arguments, environment, log, talks=True, pass_fds=[writer])
        os.close(writer)
        beamline.emissions.follow(reader)
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

    def plain(self, runs: int) -> None:
        """Do `runs` scans that start no workflow."""
        self.say(f"plain {runs}")
        self.finish()

    def start_long(self, points: int) -> None:
        """Begin one scan of so many points, which takes its time."""
        self.say(f"long {points}")

    def finish(self) -> None:
        """Wait until the scans that were begun are done, or it is dead."""
        self._line()

    def waiting(self) -> int | None:
        """Return how many submissions wait in the outbox; None if it cannot be read.

        Without those of damaged runs, which nobody is to send.
        """
        self.say("counts")
        word = self._line().split()[0]
        held = self._beamline.damaged & self._beamline.ledger.promised()
        return None if word == "?" else int(word) - len(held)

    def sent_all(self) -> None:
        """Wait until nothing waits in the outbox."""
        wait_until(lambda: self.waiting() == 0, timeout_s=_TIMEOUT_S)

    def probe(self) -> str:
        """Emit a run of which only listeners hear, and that starts nothing; return its uid."""
        self.say("probe")
        return self._line()

    def saved_all(self) -> None:
        """Wait until the disk has all that it has refused."""

        def in_memory() -> str:
            self.say("memory")
            return self._line()

        wait_until(lambda: in_memory() == "0", timeout_s=_TIMEOUT_S)

    def end(self) -> None:
        """Let it end as a script does."""
        if self.alive:
            self.say("end")
        self._leave()

    def _line(self) -> str:
        return self.process.stdout.readline().strip()
