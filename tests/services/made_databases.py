"""Databases as servers leave them that have started once, for others to start from.

The migrations of Prefect's empty database take more of the processor than all else that its server does when it starts;
Tiled makes its catalog in a process of its own.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bluesky_prefect.stack import make_private_directory
from bluesky_prefect.stack._files import exclusive
from bluesky_prefect.stack._info import StackPaths

_MIGRATE = """
import asyncio
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""
_TIMEOUT_S = 150.0


class MadeDatabases:
    """The files, each made when it is first copied, by one process for all that know the folder.

    Parameters
    ----------
    folder : Path
        Where they are, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def for_prefect(self, home: Path) -> None:
        """Have the Prefect server whose files are in `home` start with a copy."""
        self._copy("prefect.db", StackPaths(make_private_directory(home)).prefect, _make_prefect)

    def for_stack(self, root: Path) -> None:
        """Have both servers of the stack with this state directory start with copies."""
        self.for_prefect(root)
        self._copy("catalog.db", StackPaths(root).tiled, _make_catalog)

    def _copy(self, name: str, directory: Path, make: Callable[[Path], None]) -> None:
        made = self._folder / f"made-{name}"
        with exclusive(made.with_suffix(".lock"), _TIMEOUT_S):
            if not made.exists():
                unfinished = made.with_suffix(".unfinished")
                unfinished.unlink(missing_ok=True)
                make(unfinished)
                unfinished.rename(made)
        copy = make_private_directory(directory) / name
        shutil.copyfile(made, copy)
        copy.chmod(0o600)


def _make_prefect(path: Path) -> None:
    environment = {**os.environ, "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{path}"}
    subprocess.run([sys.executable, "-c", _MIGRATE], env=environment, check=True)


def _make_catalog(path: Path) -> None:
    subprocess.run([sys.executable, "-m", "tiled", "catalog", "init", str(path)], check=True, capture_output=True)
