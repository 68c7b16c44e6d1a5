"""The directory of journals: which runs are on their way to Tiled, are refused, or have got there."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bluesky_prefect.core import ConfigurationError, lock_file, one_line, private_directory, write_whole
from bluesky_prefect.journal._names import SUFFIX, journal_name, run_uid_of

_REASON = ".reason"
# A session opens a journal and writes to it within milliseconds, or was killed in between.
_OPENING_S = 3600.0
# Of one run, far more than there can be.
_MAX_COPIES = 100_000


@dataclass(frozen=True)
class WaitingJournal:
    """A run on its way to Tiled.

    Attributes
    ----------
    path : Path
        Its journal.
    written : float
        When that was last written to, in seconds since the epoch.
    size : int
        Its length in bytes.
    """

    path: Path
    written: float
    size: int

    @property
    def run_uid(self) -> str:
        """The run."""
        return run_uid_of(self.path)


@dataclass(frozen=True)
class RefusedJournal:
    """A run that Tiled does not take as it is.

    Attributes
    ----------
    path : Path
        Its journal.
    reason : str
        What Tiled says, in one line.
    since : float
        When that was, in seconds since the epoch.
    """

    path: Path
    reason: str
    since: float

    @property
    def run_uid(self) -> str:
        """The run."""
        return run_uid_of(self.path)


class JournalDirectory:
    """Journals on their way to Tiled, and in two directories below it those that are refused or delivered.

    A file is moved from one to the other by its name alone, so that it is in one of them at any time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._refused = path / "refused"
        self._delivered = path / "delivered"

    def waiting(self) -> list[WaitingJournal]:
        """Return the journals on their way, the one last written to first."""
        found = [WaitingJournal(path, status.st_mtime, status.st_size) for path, status in _journals(self.path)]
        return sorted(found, key=lambda one: (one.written, one.path), reverse=True)

    def refused(self) -> list[RefusedJournal]:
        """Return what is set aside, the newest first."""
        found = sorted(((status.st_mtime, path) for path, status in _journals(self._refused)), reverse=True)
        return [_refused(path) for _, path in found]

    def undelivered_runs(self) -> set[str]:
        """Return the uids of the runs that Tiled does not have yet."""
        # The first once more: what was refused may be tried again at this moment. By names alone, since there may be
        # thousands, and the courier asks often.
        folders = (self.path, self._refused, self.path)
        return {run_uid_of(Path(name)) for folder in folders for name in _names(folder) if name.endswith(SUFFIX)}

    def is_undelivered(self, run_uid: str) -> bool:
        """Tell whether a run is on its way to Tiled, goes on, or is refused."""
        name = journal_name(run_uid)
        return any((folder / name).exists() for folder in (self.path, self._refused, self.path))

    def is_waiting(self, run_uid: str) -> bool:
        """Tell whether a run is still on its way."""
        return _has_content(self.path / journal_name(run_uid))

    def why_refused(self, run_uid: str) -> str | None:
        """Return why Tiled does not take a run; None if it is not refused."""
        path = self._refused / journal_name(run_uid)
        return _refused(path).reason if path.exists() else None

    def is_written(self, journal: Path) -> bool:
        """Tell whether a session is at work on a journal, or a courier."""
        with suppress(OSError), journal.open("r+b") as file:
            try:
                lock_file(file, shared=True)
            except BlockingIOError:
                return True
        return False

    def is_recorded(self, run_uid: str) -> bool:
        """Tell whether a session on this machine is at work on a run."""
        return self.is_written(self.path / journal_name(run_uid))

    def deliver(self, journal: Path) -> None:
        """Take note that Tiled has a run; its journal is kept for some time."""
        private_directory(self._delivered)
        journal.replace(self._delivered / journal.name)

    def refuse(self, journal: Path, reason: str) -> None:
        """Set a run aside that Tiled does not take."""
        private_directory(self._refused)
        refused = _unused(self._refused, journal)
        write_whole(_reason_file(refused), one_line(reason, 2000).encode(), private=True)
        journal.replace(refused)

    def retry(self, name: str | None = None) -> list[str]:
        """Have what was refused tried again: the run whose uid begins with `name`, by default all; return their uids.

        Raises
        ------
        ConfigurationError
            If there is none, or the name is that of several.
        """
        moved = self._named(name)
        for one in moved:
            one.path.replace(_unused(self.path, one.path))
            _reason_file(one.path).unlink(missing_ok=True)
        return list(dict.fromkeys(one.run_uid for one in moved))

    def find(self, name: str) -> str:
        """Return the uid of the refused run that begins with `name`; for errors see `retry`."""
        return self._named(name)[0].run_uid

    def discard(self, name: str) -> str:
        """Delete what there is of a refused run, and return its uid; for `name` and for errors see `retry`."""
        found = self._named(name)
        for one in found:
            one.path.unlink()
            _reason_file(one.path).unlink(missing_ok=True)
        return found[0].run_uid

    def prune(self, keep_s: float, min_free: float = 0.0) -> int:
        """Delete what was delivered longer than `keep_s` seconds ago, and return how many that were.

        While less than the part `min_free` of the disk is free, also what was delivered since, the oldest first.
        """
        # Those that stay are many, and nothing is kept of them here.
        oldest, is_full = time.time() - keep_s, self.free() < min_free
        delivered = ((status.st_ctime, path) for path, status in _journals(self._delivered))
        deleted = 0
        for delivered_at, path in sorted(one for one in delivered if is_full or one[0] <= oldest):
            if delivered_at > oldest and self.free() >= min_free:
                break
            path.unlink(missing_ok=True)
            deleted += 1
        for path, status in list(_journals(self.path, empty=True)):
            # A full disk may have refused its session's documents all this time.
            if time.time() - status.st_mtime > _OPENING_S and not self.is_written(path):
                path.unlink(missing_ok=True)
        return deleted

    def free(self) -> float:
        """Return which part of the disk is free, between 0 and 1; 1 if that cannot be known."""
        with suppress(OSError):
            usage = shutil.disk_usage(self.path)
            return usage.free / usage.total
        return 1.0

    def _named(self, name: str | None) -> list[RefusedJournal]:
        found = [one for one in self.refused() if name is None or one.run_uid.startswith(name)]
        # A uid may be the beginning of another one.
        found = [one for one in found if one.run_uid == name] or found
        if name is not None and not found:
            raise ConfigurationError(f"No refused run begins with {name!r}: 'bluesky-prefect journal list' shows them.")
        if name is not None and len(runs := {one.run_uid for one in found}) > 1:
            raise ConfigurationError(f"Several refused runs begin with {name!r}: {', '.join(sorted(runs))}.")
        return found


def _journals(folder: Path, *, empty: bool = False) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the journals of a folder.

    One that is empty is being opened at this moment: to look at its lock would keep its session from it.
    """
    with suppress(OSError), os.scandir(folder) as entries:  # not there, or not to be read: then nobody wrote there
        for entry in entries:
            if not entry.name.endswith(SUFFIX):
                continue
            with suppress(FileNotFoundError):  # moved meanwhile
                status = entry.stat()
                if (status.st_size == 0) is empty:
                    yield Path(entry.path), status


def _unused(folder: Path, journal: Path) -> Path:
    """Return where to move a journal so that no other one of its run is overwritten."""
    stem = journal.name.partition(".")[0]
    names = (journal.name, *(f"{stem}.{number}{SUFFIX}" for number in range(1, _MAX_COPIES)))
    return next(path for name in names if not (path := folder / name).exists())


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except OSError:
        return []


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _refused(path: Path) -> RefusedJournal:
    try:
        reason = _reason_file(path).read_text(errors="replace")
        since = _reason_file(path).stat().st_mtime
    except OSError:
        reason, since = "nobody knows why", 0.0
    return RefusedJournal(path, reason, since)


def _reason_file(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}{_REASON}")
