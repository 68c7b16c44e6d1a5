"""The file of an outbox, and those beside it that are in the formats of other versions.

A session of an older version must not lose its runs where a newer one has changed the format of the outbox. It puts
them in a file beside it, which it sends from as from any outbox. Each version moves what it finds in such files, of
formats that it knows, to the outbox itself; it leaves their format as it is, since a session of the older version may
still be open.
"""

import logging
import re
from pathlib import Path

from bluesky_prefect.outbox._entry import FORMATS

logger = logging.getLogger(__name__)

# The newest format that this version knows, and the one that it writes.
_KNOWN = len(FORMATS)
_told: set[Path] = set()


class OutboxFile:
    """The file of an outbox, or the one beside it that stands in for it; no file at all for one in memory."""

    def __init__(self, path: Path | None) -> None:
        self._wanted = path
        self.path = path

    def step_aside(self, opened: Path | None, found: int) -> bool:
        """Use the file beside it from now on, since the one that was opened is of the newer format `found`.

        Returns False if that was the file beside it: there is no other.
        """
        if self._wanted is None or opened != self._wanted:
            return False
        self.path = self._wanted.with_name(f"{self._wanted.stem}.format-{_KNOWN}{self._wanted.suffix}")
        if self._wanted not in _told:
            _told.add(self._wanted)
            logger.error(
                "Outbox %s: it was written by a newer bluesky-prefect (format %d; this one knows %d). Runs go to %s "
                "beside it, are sent from there, and are found there by a newer version too. Upgrade this one.",
                self._wanted,
                found,
                _KNOWN,
                self.path,
            )
        return True

    def siblings(self) -> list[Path]:
        """Return the files beside the outbox that are of formats that this version knows, but for the one in use."""
        if self._wanted is None:
            return []
        found = self._wanted.parent.glob(f"{self._wanted.stem}.format-*{self._wanted.suffix}")
        return sorted(path for path in found if path != self.path and _is_known(path))


def _is_known(path: Path) -> bool:
    match = re.search(r"\.format-(\d{1,9})$", path.stem)
    return match is not None and 0 < int(match[1]) <= _KNOWN
