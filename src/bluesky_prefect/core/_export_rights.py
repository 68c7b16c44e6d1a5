"""The group and the modes of exported files and directories."""

import grp
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bluesky_prefect.core._exceptions import ConfigurationError
from bluesky_prefect.core._private_files import user_name

# Only its maker may use what has no rights yet.
_MAKERS = 0o700


@dataclass(frozen=True)
class ExportRights:
    """Group and modes that exported files get; what is None is left to the directory they are in, and to the umask.

    All methods raise `ConfigurationError` if this user may not give the group or the mode. What could not get its
    rights is not left behind, and nothing is ever more open than its rights allow.
    """

    group: int | None = None
    directory_mode: int | None = None
    file_mode: int | None = None

    def make_directory(self, path: Path) -> None:
        """Make a directory and those above it that are missing; one that is there keeps its rights."""
        for directory in reversed([one for one in (path, *path.parents) if not one.exists()]):
            try:
                directory.mkdir(mode=0o777 if self.directory_mode is None else self.directory_mode & _MAKERS)
            except FileExistsError:
                continue  # somebody else, who exports to it too
            try:
                self._give(directory, self.directory_mode)
            except ConfigurationError:
                with suppress(OSError):
                    directory.rmdir()
                raise

    def make_file(self, path: Path) -> None:
        """Make an empty file; raises `FileExistsError` if it is there."""
        mode = 0o666 if self.file_mode is None else self.file_mode & _MAKERS
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
        try:
            self._give(path, self.file_mode)
        except ConfigurationError:
            path.unlink(missing_ok=True)
            raise

    def renew_directory(self, path: Path) -> None:
        """Give a directory of this user's its rights, which may have been set to others since it was made."""
        if path.stat().st_uid == os.geteuid():
            self._give(path, self.directory_mode)

    def _give(self, path: Path, mode: int | None) -> None:
        with _explained(path):
            # In this order: a change of the group takes set-ID bits away.
            if self.group is not None and path.stat().st_gid != self.group:
                os.chown(path, -1, self.group)
            if mode is not None:
                path.chmod(mode)


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
