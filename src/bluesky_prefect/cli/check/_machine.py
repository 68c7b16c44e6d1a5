"""The machine this runs on: the disks that runs and results go to, and who else may look there."""

import os
import platform
import shutil
import stat
from pathlib import Path

from bluesky_prefect import __version__
from bluesky_prefect.cli.check._finding import Findings
from bluesky_prefect.cli.check._places import Places
from bluesky_prefect.core import is_trusted, shared_with

# Below this part, couriers delete journals at once that they would have kept for a day.
_LITTLE = 0.05
# Less than one run with images may take.
_NOTHING_BYTES = 100 * 2**20


def look_at_machine(places: Places) -> Findings:
    """Look at the state directory and at that of exported files."""
    findings, settings = Findings("machine"), places.settings
    findings.ok("version", f"bluesky-prefect {__version__} on Python {platform.python_version()}")
    _look_at(findings, "state_directory", settings.state_directory, "BLUESKY_PREFECT_STATE_DIRECTORY")
    _look_at_rights(findings, settings.state_directory)
    _look_at(findings, "output_directory", settings.exports_path, "BLUESKY_PREFECT_OUTPUT_DIRECTORY")
    return findings


def _look_at(findings: Findings, name: str, directory: Path, variable: str) -> None:
    """Tell whether a directory, or the one that it will be made in, can be written to, and what is free there."""
    elsewhere = f"choose another directory with {variable}"
    try:
        present = next(one for one in (directory, *directory.parents) if one.exists())
        usage = shutil.disk_usage(present)
    except OSError as error:
        findings.problem(name, f"{directory} cannot be looked at: {error.strerror}", elsewhere)
        return
    part, free = usage.free / usage.total, f"{usage.free / 2**30:.1f} GiB free ({100 * usage.free / usage.total:.0f} %)"
    what = str(directory) if present == directory else f"{directory}, to be made in {present}"
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        findings.problem(name, f"{what}: this user cannot write there", f"have it opened to you, or {elsewhere}")
    elif usage.free < _NOTHING_BYTES:
        findings.problem(name, f"{what}: {free}", f"make room, or {elsewhere}")
    elif part < _LITTLE:
        findings.warning(name, f"{what}: {free}", f"make room, or {elsewhere}")
    else:
        findings.ok(name, f"{what}: {free}")


def _look_at_rights(findings: Findings, directory: Path) -> None:
    """Tell who may read what is kept of runs, and the keys."""
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
    except OSError:  # not made yet, or told of already
        return
    if not is_trusted(directory):
        findings.problem(
            "rights",
            f"{directory} belongs to another user, and no group shares it",
            "as its owner share it with a group (chmod 2770), or set BLUESKY_PREFECT_STATE_DIRECTORY",
        )
    elif shared := shared_with(directory):
        findings.ok("rights", f"{directory} is shared with {shared}")
    elif mode & (stat.S_IRWXG | stat.S_IRWXO):
        found = f"{directory} is open to other users (mode {mode:o}); keys and metadata of runs are there"
        findings.warning("rights", found, f"chmod 700 {directory}")
    else:
        findings.ok("rights", f"{directory} is this user's alone")
