"""A folder that belongs to one run."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from bluesky_prefect.core import AS_UMASK, TEMPORARY, ConfigurationError, ExportRights, user_name, write_first

OWNER = ".bluesky-run-uid"
_ABANDONED_AFTER_S = 3600.0
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def claim_folder(
    root: Path, relative: PurePosixPath, uid: str, rights: ExportRights = AS_UMASK, *, common: int | None = None
) -> Path:
    """Return the folder of a run, made if need be; no other run is ever given the same.

    A file in the folder holds the uid of the run that owns it. Where another run owns the folder already, the run's uid
    is added to the name. The path below `root` is one of safe components. What is made gets the `rights`, and so does
    the run's folder if it is this user's. Where so many folders below `root` are `common` to runs with other rights,
    they and `root` get those of the umask.

    Raises
    ------
    ConfigurationError
        If a symbolic link below `root` leads elsewhere, or the folder cannot be made or written to.
    """
    for candidate in _candidates(relative, uid):
        folder = _made(root, candidate, rights, common)
        if _claimed(folder, uid, rights):
            _renew(root, candidate, uid, rights)
            _sweep(folder)
            return folder
    raise ConfigurationError(f"{root / relative} and its like belong to other runs; move them away.")


def folder_of(root: Path, relative: PurePosixPath, uid: str) -> Path:
    """Return the folder that `claim_folder` would, and make nothing."""
    candidates = _candidates(relative, uid)
    for candidate in candidates:
        _refuse_links(root, candidate)
    folders = [root / candidate for candidate in candidates]
    return next((one for one in folders if not (one / OWNER).exists() or _owner(one) == uid), folders[-1])


def _candidates(relative: PurePosixPath, uid: str) -> tuple[PurePosixPath, PurePosixPath]:
    safe_uid = "".join(c if c.isalnum() or c == "-" else "_" for c in uid)[:80]
    return relative, relative.with_name(f"{relative.name}_{safe_uid}")


def _owner(folder: Path, opened: int | None = None) -> str:
    """Return the uid of the run that owns a folder, which may be open already; "" if that is not to be told."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(folder / OWNER if opened is None else OWNER, flags, dir_fd=opened)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:  # a link; a socket
            raise
        return ""
    with os.fdopen(file, "rb") as stream:
        is_regular = stat.S_ISREG(os.fstat(file).st_mode)  # a pipe may never end
        return stream.read().decode(errors="replace") if is_regular else ""


def _refuse_links(root: Path, relative: PurePosixPath) -> None:
    """Raise an error if there is a symbolic link below `root`: it may lead to what others share."""
    below = [root / one for one in (*relative.parents, relative) if one.parts]
    if link := next((one for one in below if one.is_symlink()), None):
        raise ConfigurationError(
            f"{link} leads elsewhere: below the output directory {root} no symbolic link is followed. Remove the link."
        )


def _made(root: Path, relative: PurePosixPath, rights: ExportRights, common: int | None) -> Path:
    folder = root / relative
    try:
        (rights if common is None else AS_UMASK).make_directory(root)
        # Checked before anything is made: a link to elsewhere must not even get a folder there.
        _refuse_links(root, relative)
        AS_UMASK.make_directory(root.joinpath(*relative.parts[: common or 0]))
        rights.make_directory(folder)
        _refuse_links(root, relative)
    except OSError as error:
        raise ConfigurationError(
            f"The folder {folder} cannot be made ({error.strerror}): check BLUESKY_PREFECT_OUTPUT_DIRECTORY."
        ) from error
    return folder


def _claimed(folder: Path, uid: str, rights: ExportRights) -> bool:
    owner = folder / OWNER
    try:
        if not owner.exists():
            _claim(owner, uid, rights)
        if _owner(folder) != uid:
            return False
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return True
    except PermissionError as error:
        raise ConfigurationError(
            f"The folder {folder} cannot be used ({error.strerror}); it belongs to {user_name(folder.stat().st_uid)}: "
            "have it opened to this user, or check BLUESKY_PREFECT_OUTPUT_DIRECTORY."
        ) from error


def _claim(owner: Path, uid: str, rights: ExportRights) -> None:
    try:
        with suppress(FileExistsError):
            write_first(owner, uid.encode(), rights=rights)
    except OSError:
        _claim_without_links(owner, uid, rights)


def _claim_without_links(owner: Path, uid: str, rights: ExportRights) -> None:
    """Claim where there are no hard links, as on some shares; a crash right here costs the folder its name."""
    with suppress(FileExistsError), os.fdopen(rights.open_file(owner), "wb") as file:
        file.write(uid.encode())


def _renew(root: Path, relative: PurePosixPath, uid: str, rights: ExportRights) -> None:
    """Give a run's folder the rights, but none that somebody has put in its place."""
    if rights == AS_UMASK:
        return
    folder = root / relative
    try:
        with _opened(root, relative) as opened:
            if _owner(folder, opened) != uid:
                raise ConfigurationError(f"{folder} was replaced while it was claimed: see who can write there.")
            rights.renew_directory(opened, folder)
    except PermissionError:
        return  # somebody else's, as it cannot be looked at
    except OSError as error:
        raise ConfigurationError(f"{folder} was replaced while it was claimed ({error.strerror}).") from error


@contextmanager
def _opened(root: Path, relative: PurePosixPath) -> Iterator[int]:
    """Open a folder below `root` without following any link there."""
    opened = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, name in enumerate(relative.parts, 1):
            # Those above need not be readable.
            how = os.O_RDONLY if number == len(relative.parts) else os.O_PATH
            above, opened = opened, os.open(name, how | _FOLDER, dir_fd=opened)
            os.close(above)
        yield opened
    finally:
        os.close(opened)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left behind."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_S:
                left.unlink()
