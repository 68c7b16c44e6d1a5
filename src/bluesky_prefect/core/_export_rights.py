"""The group and the modes of exported files and directories."""

import grp
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bluesky_prefect.core._exceptions import ConfigurationError
from bluesky_prefect.core._private_files import user_name

# How a directory is opened, and none that a symbolic link at its path leads to.
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Only its maker may use what has no rights yet.
_MAKERS = 0o700


@dataclass(frozen=True)
class ExportRights:
    """Group and modes that exported files get; what is None is left to the directory they are in, and to the umask.

    All methods raise `ConfigurationError` if this user may not give the group or the mode. What could not get its
    rights is not left behind, and nothing is ever more open than its rights allow. They are given to what this user
    made, never to what others put at its path.
    """

    group: int | None = None
    directory_mode: int | None = None
    file_mode: int | None = None

    def make_directory(self, path: Path) -> None:
        """Make a directory and those above it that are missing; one that is there keeps its rights."""
        for directory in reversed([one for one in (path, *path.parents) if not one.exists()]):
            try:
                directory.mkdir(mode=0o777 if self.directory_mode is None else _MAKERS)
            except FileExistsError:
                continue  # somebody else, who exports to it too
            try:
                self._give_new_directory(directory)
            except BaseException:  # also a flow run that is cancelled
                with suppress(OSError):
                    directory.rmdir()
                raise

    def open_file(self, path: Path) -> int:
        """Make a file and return its descriptor, for reading and writing; raises `FileExistsError` if it is there."""
        opened = os.open(path, _NEW_FILE, 0o666 if self.file_mode is None else 0o600)
        try:
            self._give(opened, path, self.file_mode, new=True)
        except BaseException:
            os.close(opened)
            path.unlink(missing_ok=True)
            raise
        return opened

    def renew_directory(self, opened: int, path: Path) -> None:
        """Give an open directory of this user's its rights, which may have been set to others since it was made."""
        if os.fstat(opened).st_uid == os.geteuid():
            self._give(opened, path, self.directory_mode)

    def _give_new_directory(self, path: Path) -> None:
        if self.group is None and self.directory_mode is None:
            return
        with _explained(path):
            opened = os.open(path, _DIRECTORY)
        try:
            if os.fstat(opened).st_uid != os.geteuid():
                raise ConfigurationError(
                    f"{path} was replaced by another user's while it was made: see who can write there."
                )
            self._give(opened, path, self.directory_mode, new=True)
        finally:
            os.close(opened)

    def _give(self, opened: int, path: Path, mode: int | None, *, new: bool = False) -> None:
        """Give the rights to what is open, whatever stands at its path by now."""
        with _explained(path):
            # In this order: a change of the group takes set-ID bits away.
            if self.group is not None and os.fstat(opened).st_gid != self.group:
                os.fchown(opened, -1, self.group)
            if mode is not None and stat.S_IMODE(os.fstat(opened).st_mode) != mode:
                os.fchmod(opened, mode)
            got, parent = os.fstat(opened), path.parent.stat()
        # The kernel takes the set-group-ID bit away in silence, and some file systems all the rest.
        wanted_mode = stat.S_IMODE(got.st_mode) if mode is None else mode
        wanted_group = got.st_gid if self.group is None else self.group
        if self.group is None and mode is not None and new and parent.st_mode & stat.S_ISGID:
            wanted_group = parent.st_gid
        if (stat.S_IMODE(got.st_mode), got.st_gid) != (wanted_mode, wanted_group):
            raise ConfigurationError(
                f"{path} should have mode {wanted_mode:04o} and group {wanted_group}, and got mode "
                f"{stat.S_IMODE(got.st_mode):04o} and group {got.st_gid}: add {user_name(os.geteuid())} to the group "
                f"{wanted_group} and start the worker again, or, if the file system knows no such modes, unset "
                "BLUESKY_PREFECT_EXPORT_DIRECTORY_MODE and BLUESKY_PREFECT_EXPORT_FILE_MODE."
            )


AS_UMASK = ExportRights()


def group_id(name: str) -> int:
    """Return the number of a group that this user may give files to.

    Raises
    ------
    ConfigurationError
        If there is no such group on this machine, or this user is not in it.
    """
    try:
        group = int(name) if name.isascii() and name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigurationError(
            f"Exported files cannot be given to the group {name!r}, which this machine does not know: check "
            "BLUESKY_PREFECT_EXPORT_GROUP."
        ) from None
    if os.geteuid() != 0 and group not in {os.getegid(), *os.getgroups()}:
        raise ConfigurationError(
            f"Exported files cannot be given to the group {name!r}: {user_name(os.geteuid())} is not in it. Add that "
            "user to the group and start the worker again, or check BLUESKY_PREFECT_EXPORT_GROUP."
        )
    return group


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be given its group and mode ({error.strerror}): check BLUESKY_PREFECT_EXPORT_GROUP, "
            "BLUESKY_PREFECT_EXPORT_DIRECTORY_MODE and BLUESKY_PREFECT_EXPORT_FILE_MODE."
        ) from error
