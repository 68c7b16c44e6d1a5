"""Other users of the machine: processes with a uid of their own, in a group that shares a directory."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import bluesky_prefect
from tests.conftest import missing_service

# Of no user and no group that a distribution makes.
GROUP = 54_000
_FIRST = 54_001
_PYTHON_PATH = os.pathsep.join([str(Path(bluesky_prefect.__file__).parents[1]), sysconfig.get_path("purelib")])


@dataclass(frozen=True)
class Account:
    """A user of the machine, with a home.

    Attributes
    ----------
    uid : int
        Its number, also of its own group.
    home : Path
        A directory that nobody else can enter.
    """

    uid: int
    home: Path

    def popen(self, script: str, *arguments: object, umask: int = 0o022, **environment: str) -> subprocess.Popen[str]:
        """Start a Python process of this user's, with its output in pipes."""
        return self._start([_interpreter(self.uid), "-c", script, *map(str, arguments)], umask, environment)

    def run(self, script: str, *arguments: object, umask: int = 0o022, **environment: str) -> str:
        """Run a Python script as this user, and return what it printed."""
        return _output(self.popen(script, *arguments, umask=umask, **environment))

    def command(self, *arguments: object, **environment: str) -> tuple[int, str]:
        """Run ``bluesky-prefect``, and return its exit code and all that it printed."""
        command = [_interpreter(self.uid), "-m", "bluesky_prefect", *map(str, arguments)]
        process = self._start(command, 0o022, environment)
        output, _ = process.communicate(timeout=170)
        return process.returncode, output

    def _start(self, command: list[str], umask: int, environment: dict[str, str]) -> subprocess.Popen[str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PREFECT_HOME"))}
        path = os.pathsep.join([_PYTHON_PATH, str(self.home)])
        # Prefect's worker keeps files in a directory of one name for all users, which the first one closes.
        environment = {"TMPDIR": str(self.home), **environment}
        home = {"HOME": str(self.home), "PREFECT_HOME": str(self.home / ".prefect"), "PYTHONPATH": path}
        options: dict[str, Any] = {"user": self.uid, "group": self.uid, "extra_groups": [GROUP], "umask": umask}
        return subprocess.Popen(
            command,
            env={**own, **home, "MPLCONFIGDIR": str(self.home), "IPYTHONDIR": str(self.home), **environment},
            cwd=self.home,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )


@contextmanager
def shared_place(mode: int = 0o2770) -> Iterator[tuple[Path, Account, Account]]:
    """A state directory of root's with this mode, of a group that two users are in; then it is deleted."""
    if os.geteuid() != 0:
        missing_service("processes of other users: only root starts them")
    # Not below pytest's own directory, which only its owner may enter.
    place = Path(tempfile.mkdtemp(prefix="bluesky-prefect-shared-"))
    place.chmod(0o755)
    try:
        accounts = [_account(place / name, _FIRST + number) for number, name in enumerate(("ada", "bob"))]
        state = place / "state"
        state.mkdir()
        os.chown(state, 0, GROUP)
        state.chmod(mode)
        yield state, accounts[0], accounts[1]
    finally:
        shutil.rmtree(place, ignore_errors=True)


@cache
def _interpreter(uid: int) -> str:
    """An interpreter that this user may execute: this one may lie in a home that is closed to others."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, f"/usr/local/bin/{name}", f"/usr/bin/{name}"):
        command, variables = [path, "-c", "import pydantic, sqlite3"], {"PYTHONPATH": _PYTHON_PATH}
        with suppress(OSError):
            if subprocess.run(command, env=variables, user=uid, group=uid, check=False).returncode == 0:
                return path
    missing_service(f"{name}, or {sys.executable}, where another user may execute it")
    raise AssertionError("not reached")


def _account(home: Path, uid: int) -> Account:
    home.mkdir(mode=0o700)
    # A package asks for it on a Python older than 3.11.3, as the system's may be; this one's has not installed it.
    (home / "async_timeout.py").write_text("from asyncio import timeout\n")
    os.chown(home, uid, uid)
    return Account(uid, home)


def _output(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output
