"""The directories, besides its own, in which the stack's Tiled server may read files."""

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from bluesky_prefect.core import ConfigurationError, Settings
from bluesky_prefect.stack._info import StackInfo, StackPaths
from bluesky_prefect.tiled_api import ReadableStorage

SETTING = "--readable or BLUESKY_PREFECT_READABLE"
# In place of a directory: those named so far are forgotten.
NONE = "none"


def choose_readable(
    settings: Settings, paths: StackPaths, *, is_running: bool, report: Callable[[str], None]
) -> tuple[Path, ...]:
    """Return the directories to let Tiled read: those of earlier starts, and those that are asked for now.

    A server that runs keeps those that it has; `report` is told if others are asked for, and what to do.

    Raises
    ------
    ConfigurationError
        If one that is asked for is no directory, or must not be read.
    """
    present = ReadableStorage.load(settings.readable_path).directories
    wanted = asked_for(settings.readable, present, paths)
    if is_running:
        if set(wanted) != set(present):
            options = " ".join(f"--readable {shlex.quote(one)}" for one in settings.readable)
            report(
                f"Tiled server: may read {_listed(present)}, not {_listed(wanted)}. To change it: "
                f"bluesky-prefect down, then up {options}"
            )
        return present
    return tuple(path for path in wanted if _is_usable(path, paths, report))


def asked_for(named: Iterable[str], present: tuple[Path, ...], paths: StackPaths) -> tuple[Path, ...]:
    """Return the directories that are wanted where these are named in addition to those that are present.

    Raises
    ------
    ConfigurationError
        If a named one is no directory, or must not be read.
    """
    wanted = present
    for one in named:
        path = Path(one).expanduser()
        if one == NONE:
            wanted = ()
            continue
        if problem := _problem(path, paths) or ("" if path.is_dir() else "is not a directory that is there"):
            raise ConfigurationError(f"Tiled cannot be let read {one!r}: it {problem}. Check {SETTING}.")
        # Tiled compares paths as they are written.
        path = path.resolve() if ".." in path.parts else path
        wanted = wanted if path in wanted else (*wanted, path)
    return wanted


def reads(info: StackInfo, named: Iterable[str]) -> bool:
    """Tell whether a stack's Tiled server has all directories that were named, and no others if ``none`` was."""
    return set(asked_for(named, info.readable, StackPaths(info.state_directory))) == set(info.readable)


def storage_of(directories: Iterable[Path]) -> tuple[Path, ...]:
    """Return directories by all names that a detector may write: as they were given, and without symbolic links."""
    return tuple(dict.fromkeys(name for one in directories for name in (one, Path(os.path.realpath(one)))))


def _is_usable(path: Path, paths: StackPaths, report: Callable[[str], None]) -> bool:
    """Tell whether a directory may still be read: what it leads to may have changed since it was named."""
    if problem := _problem(path, paths):
        report(f"Tiled server: may no longer read {path}: it {problem}")
        return False
    if not path.is_dir():
        report(f"Tiled server: may read {path}, which is not there now")
    return True


def _problem(path: Path, paths: StackPaths) -> str:
    """Return why Tiled must not read a directory: its key would open more than data."""
    if not path.is_absolute():
        return "is no absolute path"
    real, state = Path(os.path.realpath(path)), Path(os.path.realpath(paths.root))
    if real == Path(real.anchor):
        return "holds every file of this machine; name the directory that detectors write to"
    if state.is_relative_to(real) or real.is_relative_to(state):
        return f"shares files with the state directory {paths.root}, which has the keys; name a directory beside that"
    return ""


def _listed(directories: tuple[Path, ...]) -> str:
    return ", ".join(map(str, directories)) or "no directory but its own"
