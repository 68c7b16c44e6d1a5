"""An environment of a wheel and nothing else, and homes that are as empty."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 180


class Failed(Exception):
    """A command failed in an environment: what it was, and what it printed."""


class Environment:
    """A virtual environment, and an empty folder to run commands in, far from the checkout.

    What Python compiles is left for the next environment in this place, most of whose files are the same.
    """

    def __init__(self, place: Path) -> None:
        self._folder = place / "environment"
        self._work = place / "work"
        self._compiled = place / "compiled"
        self._work.mkdir(parents=True)
        self.python = self._folder / "bin" / "python"
        self.run(sys.executable, "-m", "venv", "--without-pip", str(self._folder))

    def install(self, *requirements: str, constraints: str = ".ci/constraints.txt") -> None:
        """Install what `pip install` would."""
        command = [str(ROOT / ".ci/install"), str(self.python), *requirements]
        _run(command, ROOT, {**os.environ, "CONSTRAINTS": constraints})

    def check(self) -> None:
        """Have pip look at the requirements of all packages."""
        self.run(sys.executable, "-m", "pip", "--python", str(self.python), "check")

    def packages(self) -> set[str]:
        """Return the names of what is installed, but for the wheel's own."""
        code = "from importlib.metadata import distributions; print(*(one.name for one in distributions()))"
        return set(self.run(str(self.python), "-c", code).split()) - {"bluesky-prefect"}

    def size_mb(self) -> float:
        """Return the size of all files but those that Python compiles, in millions of bytes."""
        files = (path for path in self._folder.rglob("*") if path.is_file() and not path.is_symlink())
        return sum(path.stat().st_size for path in files if path.suffix != ".pyc") / 1e6

    def remove(self) -> None:
        """Delete it, and its homes."""
        for folder in (self._folder, self._work, self._work.with_name("home")):
            shutil.rmtree(folder, ignore_errors=True)

    def import_s(self, statement: str) -> float:
        """Return the processor time of an import in a new process, in seconds, once it is compiled."""
        code = f"import time; began = time.process_time(); {statement}; print(time.process_time() - began)"
        for _ in range(2):
            printed = self.run(str(self.python), "-c", code)
        return float(printed.split()[-1])

    def run(self, *command: str) -> str:
        """Return what a command prints."""
        home = self._work.with_name("home")
        home.mkdir(exist_ok=True)
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        path = f"{self.python.parent}{os.pathsep}{os.defpath}"
        own = {"HOME": str(home), "PATH": path, "DO_NOT_TRACK": "1", "PYTHONPYCACHEPREFIX": str(self._compiled)}
        return _run(command, self._work, {**kept, **own})


def _run(command: "tuple[str, ...] | list[str]", folder: Path, environment: dict[str, str]) -> str:
    # To a file: a process that goes on in the background would keep a pipe open.
    with tempfile.TemporaryFile("w+") as printed:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
        )
        printed.seek(0)
        said = printed.read()
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}")
    return said


@contextmanager
def empty_environment(place: Path) -> Iterator[Environment]:
    """Make an environment in a folder, and delete it afterwards."""
    environment = Environment(place)
    try:
        yield environment
    finally:
        environment.remove()
