"""Files that only their owner may read, or the group that shares their directory, whatever the umask."""

import errno
import grp
import logging
import os
import pwd
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_SHARED = stat.S_IRWXU | stat.S_IRWXG
# Of parents, before the umask.
_PARENT = 0o755
# What SQLite makes beside a file, with the mode of the file.
COMPANIONS = ("-wal", "-shm", "-journal")
# Paths that a warning was given for: every connection comes here, and a trouble is told once.
_told: set[Path] = set()


@dataclass(frozen=True)
class Rights:
    """Modes of what is made in a directory, and the group that shares it, if one does."""

    directory: int = 0o700
    file: int = 0o600
    umask: int = 0o077
    group: int | None = None


def rights_in(directory: Path) -> Rights:
    """Return the rights of what is made in a directory: for its owner alone, or for the group that shares it.

    A group shares a directory that it may read and write, and that is closed to everybody else (``chmod 2770``). It is
    trusted as its owner is: also the keys that lie there are for all of it.
    """
    try:
        status = directory.stat()
    except OSError:  # not there, or not to be looked at: whoever makes it says what is wrong
        return Rights()
    return Rights(0o2770, 0o660, 0o007, status.st_gid) if _is_shared(status) else Rights()


def gives_group_late(directory: Path) -> bool:
    """Tell whether files in a shared directory belong to their maker's own group for a moment after they are made.

    They do where the directory lacks the set-group-ID bit, which only its owner can set.
    """
    return rights_in(directory).group is not None and not directory.stat().st_mode & stat.S_ISGID


def is_trusted(directory: Path) -> bool:
    """Tell whether what stands in a directory was written by this user, root, or a group that shares the directory."""
    return not is_anothers(directory) or bool(shared_with(directory))


def shared_with(directory: Path) -> str:
    """Return which group shares a directory, and whose it is, in words; "" if none does."""
    try:
        status = directory.stat()
    except OSError:
        return ""
    return f"group {_group_name(status.st_gid)}, owned by {user_name(status.st_uid)}" if _is_shared(status) else ""


def is_anothers(directory: Path) -> bool:
    """Tell whether a directory is that of another user, other than root."""
    try:
        return directory.stat().st_uid not in (os.geteuid(), 0)
    except OSError:
        return False


def user_name(uid: int) -> str:
    """Return what a user of this machine is called."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a user without a name, as in containers
        return f"user {uid}"


def private_directory(path: Path) -> Path:
    """Make a directory that only its owner can enter; one that is there already is closed to others.

    One that a group shares stays so, and what is made in it is the group's, too. Parents that do not exist yet are
    made with the user's own defaults, but nobody else can write to them: they could put another directory in its place.

    Raises
    ------
    OSError
        If it cannot be made, or is open to others and not this user's to close.
    """
    if not path.exists():
        for parent in reversed([one for one in path.parents if not one.exists()]):
            _make_parent(parent)
        rights = rights_in(path.parent)
        path.mkdir(mode=rights.directory, exist_ok=True)
        _set(path, rights.directory, rights.group)
    present = path.stat()
    if _is_shared(present):
        with suppress(OSError):  # somebody else's, who has to do it
            # Files get the directory's group, also those that SQLite makes.
            _set(path, stat.S_IMODE(present.st_mode) | stat.S_ISGID)
        return path
    if present.st_mode & stat.S_ISVTX:
        # Of /tmp and its like, which root may close, but not on its own.
        raise PermissionError(errno.EPERM, "it is a directory for everybody", str(path))
    _set(path, Rights.directory)
    return path


def private_file(path: Path) -> None:
    """Make an empty file that only its directory's owner, or the group that shares that, may read and write.

    A file or directory that is there already, and open to others, is closed. What belongs to somebody else stays as
    it is, and a warning says so: to refuse it would lose runs.

    Raises
    ------
    OSError
        If it is not there and cannot be made, or is somebody else's and closed to this user. Says what to do.
    """
    try:
        private_directory(path.parent)
    except OSError:  # some file systems know no modes at all
        if not path.parent.is_dir():
            raise
        _warn_if_open(path.parent)
    rights = rights_in(path.parent)
    try:
        # One that is there is not opened: closing it again would drop the locks that SQLite has on it.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, rights.file))
    except FileExistsError:
        pass
    except PermissionError as error:
        raise _closed(path.parent) from error
    _settle(path, rights)


def private_database(path: Path) -> None:
    """Make an empty SQLite file as `private_file` does; the same holds for what SQLite makes beside it."""
    private_file(path)
    for suffix in COMPANIONS:
        with suppress(FileNotFoundError):  # the last one to close the file deletes them
            _settle(path.with_name(path.name + suffix), rights_in(path.parent))


def share_directory(directory: Path, *within: Path) -> None:
    """Open to the group that shares a directory, if one does, what this user made there before it was shared.

    The directories `within` it are opened too, with the files in them.
    """
    rights = rights_in(directory)
    if rights.group is None:
        return
    for folder in (directory, *within):
        for path in (folder, *folder.glob("*")):
            with suppress(OSError):
                if path.stat().st_uid == os.geteuid() and (path.is_file() or path in within):
                    _set(path, rights.file if path.is_file() else rights.directory, rights.group)


def _make_parent(path: Path) -> None:
    rights = rights_in(path.parent)
    path.mkdir(mode=_PARENT if rights.group is None else rights.directory, exist_ok=True)
    if rights.group is not None:
        _set(path, rights.directory, rights.group)


def _is_shared(status: os.stat_result) -> bool:
    return status.st_mode & (_SHARED | stat.S_IRWXO) == _SHARED


def _set(path: Path, mode: int, group: int | None = None) -> None:
    present = path.stat()
    if group is not None and present.st_gid != group:
        os.chown(path, -1, group)
    if stat.S_IMODE(present.st_mode) != mode:
        path.chmod(mode)


def write_problem(directory: Path) -> str:
    """Return why nothing can be written to a directory, in a sentence; "" if it can be, or the directory is missing."""
    if not directory.exists() or os.access(directory, os.W_OK | os.X_OK):
        return ""
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        return f"The disk of {directory} is read-only, and takes no run: have it mounted for writing."
    return f"This user cannot write to {directory}, which takes no run: have it opened to that user."


def _settle(path: Path, rights: Rights) -> None:
    """Give a file its rights if it is this user's; if it is somebody else's, say what is wrong with it."""
    with suppress(PermissionError):
        _set(path, rights.file, rights.group)
    if not os.access(path, os.R_OK | os.W_OK):
        raise _closed(path)
    if rights.group is None and path.parent not in _told:
        _warn_if_open(path)


def _warn_if_open(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & (stat.S_IRWXG | stat.S_IRWXO):
        _told.discard(path)
    elif path not in _told:
        _told.add(path)
        logger.warning(
            "%s is open to other users (mode %o) and not this user's to close. Runs' metadata are kept there: "
            "have it closed, or set BLUESKY_PREFECT_STATE_DIRECTORY to a directory of your own.",
            path,
            mode,
        )


def _closed(path: Path) -> PermissionError:
    """Return the error of a path that this user cannot use, with what its owner, or this user, can do about it."""
    owner = user_name(path.stat().st_uid)
    directory = path if path.is_dir() else path.parent
    if rights_in(directory).group is not None and path != directory:
        remedy = (
            f"{owner}'s next session opens it to the group of its directory; at once, as {owner}: chmod g+rw {path}"
        )
    else:
        remedy = (
            f"to share the directory with a group, as its owner: chgrp -R GROUP {directory}; "
            f"chmod -R u=rwX,g=rwX,o= {directory}; chmod g+s {directory}. "
            "Or set BLUESKY_PREFECT_STATE_DIRECTORY to a directory of your own"
        )
    return PermissionError(errno.EACCES, f"{path} belongs to {owner} and is closed to this user: {remedy}")


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
