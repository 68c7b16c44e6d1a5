"""Files of detectors that a Tiled server refuses, since they lie outside the directories that it may read."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from bluesky_prefect.core import LOOPBACK_NAMES, Settings, write_whole


class ReadableStorage(BaseModel):
    """Directories that the local stack's Tiled server may read, as kept in the state directory.

    Parameters
    ----------
    server : str
        Its address.
    directories : tuple of Path
        Those that people named.
    storage : tuple of Path
        All that it reads, as its configuration names it.
    """

    model_config = ConfigDict(frozen=True)

    server: str = ""
    directories: tuple[Path, ...] = ()
    storage: tuple[Path, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it; where there is no such file, nobody has named a directory."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return cls()

    def save(self, path: Path) -> None:
        """Write it to disk."""
        write_whole(path, (self.model_dump_json(indent=2) + "\n").encode(), private=True)

    def refusal(self, files: Iterable[str]) -> str:
        """Return which of these addresses of files the server refuses, and the remedy, in a sentence; or ""."""
        refused = [path for uri in files if (path := self._refused(uri))]
        if not refused:
            return ""
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        return f"{refused[0]}{more} lies outside the directories that Tiled may read: {readable_option(refused[0])}"

    def _refused(self, uri: str) -> str:
        """Return the path of a file that Tiled refuses to read, or ""; the rule is that of Tiled's catalog."""
        try:
            parts = urlsplit(uri)
        except ValueError:
            return ""
        if parts.scheme != "file":
            return ""
        # Neither percent signs nor symbolic links are resolved.
        path = Path(parts.path)
        return "" if any(_holds(directory, path) for directory in self.storage) else str(path)


def _holds(directory: Path, path: Path) -> bool:
    try:
        return Path(os.path.commonpath([directory, path])) == directory
    except ValueError:  # one is relative
        return False


def readable_option(path: str) -> str:
    """Return the command that lets the local stack's Tiled server read the directory of a file."""
    directory = shlex.quote(str(Path(path).parent))
    return f"bluesky-prefect down, then bluesky-prefect up --readable {directory} (or a directory above it)"


def readable_storage(settings: Settings) -> ReadableStorage | None:
    """Return what the Tiled server of the settings may read; None if it is not the local stack's, so nobody knows."""
    kept = ReadableStorage.load(settings.readable_path)
    return kept if kept.storage and _is_same(settings.tiled_uri or "", kept.server) else None


def _is_same(uri: str, other: str) -> bool:
    try:
        one, two = urlsplit(uri), urlsplit(other)
        return {one.hostname, two.hostname} <= LOOPBACK_NAMES and one.port == two.port
    except ValueError:
        return False
