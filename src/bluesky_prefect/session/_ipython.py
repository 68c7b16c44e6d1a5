"""IPython with the beamline profile."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from bluesky_prefect.core import ConfigurationError, Settings, default_state_directory, get_settings, rights_in

_QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")


def open_ipython(
    arguments: Sequence[str] = (), *, settings: Settings | None = None, report: Callable[[str], None] = print
) -> NoReturn:
    """Become an IPython with the beamline profile on the local stack, which is started if need be.

    IPython's own files (history and so on) go below the state directory, or, where a group shares that, below the
    user's own: IPython runs what it finds among them. Further arguments are IPython's. `report` is told what happens
    while the stack starts. Does not return: this process is replaced.

    Raises
    ------
    ConfigurationError, StackError
        If the profile is not there, or the stack cannot be started.
    """
    from bluesky_prefect.stack import LocalStack, make_private_directory

    settings = settings or get_settings()
    files = startup_files()
    stack = LocalStack(settings)
    info = stack.find() or stack.up(report)
    directory = make_private_directory(_ipython_directory(settings))
    command = [*ipython_command(files, directory), *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, {**os.environ, **info.environment()})  # noqa: S606 - replacing is the point


def startup_files() -> list[Path]:
    """Return the profile's startup files in the order they run.

    Raises `ConfigurationError` if they are not there: they are part of the source checkout, not of an installed
    package.
    """
    directory = Path(__file__).parents[3] / "profile_collection" / "startup"
    files = sorted(directory.glob("*.py"))
    if not files:
        raise ConfigurationError(
            f"There is no profile at {directory}: it is part of bluesky-prefect's source code. Run 'make ipython' in "
            "a checkout of it, or call bluesky_prefect.session.start_session() in a startup file of your own profile."
        )
    return files


def ipython_command(files: Sequence[Path], ipython_directory: Path) -> list[str]:
    """Return the command that starts IPython with these startup files."""
    command = [
        sys.executable,
        "-m",
        "IPython",
        f"--ipython-dir={ipython_directory}",
        # Rather than as a profile directory, which IPython would fill with its history, in the checkout.
        f"--InteractiveShellApp.exec_files={json.dumps([str(path) for path in files])}",
    ]
    return [*command, "--matplotlib=qt"] if _can_draw() else command


def _ipython_directory(settings: Settings) -> Path:
    shared = rights_in(settings.state_directory).group is not None
    return (default_state_directory() if shared else settings.state_directory) / "ipython"


def _can_draw() -> bool:
    display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return display and any(find_spec(name) for name in _QT_BINDINGS)
