"""A folder that belongs to one run."""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from bluesky_prefect.core import AS_UMASK, TEMPORARY, ConfigurationError, ExportRights, user_name, write_first

OWNER = ".bluesky-run-uid"
_ABANDONED_AFTER_S = 3600.0


def claim_folder(root: Path, relative: PurePosixPath, uid: str, rights: ExportRights = AS_UMASK) -> Path:
    """Return the folder of a run, made if need be; no other run is ever given the same.

    A file in the folder holds the uid of the run that owns it. Where another run owns the folder already, the run's uid
    is added to the name. The path below `root` is one of safe components. What is made gets the `rights`, and so does
    the run's folder if it is this user's.

    Raises
    ------
    ConfigurationError
        If the folder would lie outside `root` (a symbolic link leads there), or cannot be made or written to.
    """
    for candidate in _candidates(relative, uid):
        folder = _made(root, candidate, rights)
        if _claimed(folder, uid, rights):
            rights.renew_directory(folder)
            _sweep(folder)
            return folder
    raise ConfigurationError(f"{root / relative} and its like belong to other runs; move them away.")


def folder_of(root: Path, relative: PurePosixPath, uid: str) -> Path:
    """Return the folder that `claim_folder` would, and make nothing."""
    folders = [root / candidate for candidate in _candidates(relative, uid)]
    return next((one for one in folders if not (one / OWNER).exists() or _owner(one) == uid), folders[-1])


def _candidates(relative: PurePosixPath, uid: str) -> tuple[PurePosixPath, PurePosixPath]:
    safe_uid = "".join(c if c.isalnum() or c == "-" else "_" for c in uid)[:80]
    return relative, relative.with_name(f"{relative.name}_{safe_uid}")


def _owner(folder: Path) -> str:
    return (folder / OWNER).read_text(encoding="utf-8")


def _made(root: Path, relative: PurePosixPath, rights: ExportRights) -> Path:
    folder = root / relative
    try:
        rights.make_directory(root)
        # Checked before anything is made: a link to elsewhere must not even get a folder there.
        if not folder.resolve().is_relative_to(root.resolve()):
            raise ConfigurationError(f"{folder} leads out of the output directory {root}: remove the link.")
        rights.make_directory(folder)
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
    with suppress(FileExistsError):
        rights.make_file(owner)
        owner.write_text(uid, encoding="utf-8")


def _sweep(folder: Path) -> None:
    """Remove what a killed process left behind."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_S:
                left.unlink()
