"""Files that appear whole or not at all, in a folder that belongs to one run."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from bluesky_prefect.core import ConfigurationError

OWNER = ".bluesky-run-uid"
_TEMPORARY = ".bluesky-prefect-"
_ABANDONED_AFTER_S = 3600.0


def claim_folder(root: Path, relative: PurePosixPath, uid: str) -> Path:
    """Return the folder of a run, made if need be; no other run is ever given the same.

    A file in the folder holds the uid of the run that owns it. Where another run owns the folder already, the
    run's uid is added to the name.

    Parameters
    ----------
    root : Path
        The directory that all folders are in.
    relative : PurePosixPath
        The folder's path below it, of safe components.
    uid : str
        The run's full uid.

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


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there in full or, whatever happens meanwhile, as it was before."""
    with whole_file(path) as stream:
        stream.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name, flushed to the disk, when the block ends without an error."""
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
    try:
        # Not tempfile: its files are for their owner only, and these are for everybody the umask allows.
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


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
        ours = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
        with ours.open("xb") as stream:
            stream.write(uid.encode())
            stream.flush()
            os.fsync(stream.fileno())
        try:
            # Of two runs that get here at once, one makes the link. Unlike a replacement, a link never overwrites.
            with suppress(FileExistsError):
                owner.hardlink_to(ours)
        except OSError:
            _claim_without_links(owner, uid)
        finally:
            ours.unlink()
        _sync(folder)
    return owner.read_text(encoding="utf-8") == uid


def _claim_without_links(owner: Path, uid: str) -> None:
    """Claim where there are no hard links, as on some shares; a crash right here costs the folder its name."""
    with suppress(FileExistsError), owner.open("x", encoding="utf-8") as stream:
        stream.write(uid)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left behind."""
    for left in folder.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_S:
                left.unlink()


def _sync(folder: Path) -> None:
    """Make a new name in a folder survive a power cut, where the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
