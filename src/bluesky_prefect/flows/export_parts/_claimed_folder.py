"""A folder that belongs to one run."""

import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from bluesky_prefect.core import TEMPORARY, ConfigurationError, write_first

OWNER = ".bluesky-run-uid"
_ABANDONED_AFTER_S = 3600.0


def claim_folder(root: Path, relative: PurePosixPath, uid: str) -> Path:
    """Return the folder of a run, made if need be; no other run is ever given the same.

    A file in the folder holds the uid of the run that owns it. Where another run owns the folder already, the run's uid
    is added to the name. The path below `root` is one of safe components.

    Raises
    ------
    ConfigurationError
        If the folder would lie outside `root` (a symbolic link leads there), or cannot be made.
    """
    safe_uid = "".join(c if c.isalnum() or c == "-" else "_" for c in uid)[:80]
    for candidate in (relative, relative.with_name(f"{relative.name}_{safe_uid}")):
        folder = _made(root, candidate)
        if _claimed(folder, uid):
            _sweep(folder)
            return folder
    raise ConfigurationError(f"{root / relative} and its like belong to other runs; move them away.")


def _made(root: Path, relative: PurePosixPath) -> Path:
    folder = root / relative
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Checked before anything is made: a link to elsewhere must not even get a folder there.
        if not folder.resolve().is_relative_to(root.resolve()):
            raise ConfigurationError(f"{folder} leads out of the output directory {root}: remove the link.")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The folder {folder} cannot be made ({error.strerror}): check BLUESKY_PREFECT_OUTPUT_DIRECTORY."
        ) from error
    return folder


def _claimed(folder: Path, uid: str) -> bool:
    owner = folder / OWNER
    if not owner.exists():
        try:
            with suppress(FileExistsError):
                write_first(owner, uid.encode())
        except OSError:
            _claim_without_links(owner, uid)
    return owner.read_text(encoding="utf-8") == uid


def _claim_without_links(owner: Path, uid: str) -> None:
    """Claim where there are no hard links, as on some shares; a crash right here costs the folder its name."""
    with suppress(FileExistsError), owner.open("x", encoding="utf-8") as stream:
        stream.write(uid)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left behind."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_S:
                left.unlink()
