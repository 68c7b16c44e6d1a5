"""Files and directories that only their owner may read, whatever the umask."""

import errno
import logging
import stat
from pathlib import Path

logger = logging.getLogger(__name__)

_DIRECTORY = 0o700
_FILE = 0o600


def private_directory(path: Path) -> Path:
    """Make a directory that only its owner can enter; one that is there already is closed to others.

    Parents that do not exist yet are made with the user's own defaults.

    Raises
    ------
    OSError
        If it cannot be made, or is open to others and not this user's to close.
    """
    path.mkdir(mode=_DIRECTORY, parents=True, exist_ok=True)
    _close(path, _DIRECTORY)
    return path


def private_file(path: Path) -> None:
    """Make an empty file of mode 0600 in a directory of mode 0700; what is there already is closed to others.

    What belongs to somebody else (a directory that a beamline's staff share) stays as it is, and a warning says so:
    to refuse it would lose runs.

    Raises
    ------
    OSError
        If they are not there and cannot be made.
    """
    path.parent.mkdir(mode=_DIRECTORY, parents=True, exist_ok=True)
    path.touch(mode=_FILE)
    for one, mode in ((path.parent, _DIRECTORY), (path, _FILE)):
        try:
            _close(one, mode)
        except OSError:  # some file systems know no modes at all
            logger.warning(
                "%s is open to other users (mode %o) and not this user's to close. Runs' metadata are kept there: "
                "have it closed, or set BLUESKY_PREFECT_STATE_DIRECTORY to a directory of your own.",
                one,
                stat.S_IMODE(one.stat().st_mode),
            )


def _close(path: Path, mode: int) -> None:
    present = stat.S_IMODE(path.stat().st_mode)
    if present & stat.S_ISVTX:
        # Of /tmp and its like, which root may close, but not on its own.
        raise PermissionError(errno.EPERM, "it is a directory for everybody", str(path))
    if present != mode:
        path.chmod(mode)
