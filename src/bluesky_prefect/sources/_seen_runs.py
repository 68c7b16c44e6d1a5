"""The runs of a catalog that a listener has seen, kept over its restarts."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bluesky_prefect.core import error_line, write_whole
from bluesky_prefect.tiled_api import StoredRun

logger = logging.getLogger(__name__)

# A look that meets so many known runs in a row has met all that is new.
# Runs that were begun at the same moment may come to Tiled in another order than they are listed in.
IN_A_ROW = 20
_PREFIX = "listen-tiled-"


class SeenRuns:
    """The newest runs at the last complete look, and all that had not stopped by then, by their keys in Tiled.

    Parameters
    ----------
    directory : Path
        Where the file is, whose name tells catalogs apart.
    catalog : str
        Address of the catalog.

    Attributes
    ----------
    is_new : bool
        True until the first complete look.
    """

    # So many of the newest are kept, and of those that go on.
    MOST = 1000
    MOST_OPEN = 5000

    def __init__(self, directory: Path, catalog: str) -> None:
        self.path = directory / f"{_PREFIX}{hashlib.sha256(catalog.encode()).hexdigest()[:8]}.json"
        self._catalog = catalog
        self.newest: dict[str, None] = {}
        self.open: dict[str, None] = {}
        self._saved = b""
        self.is_new = not self._read()
        if self.is_new and (others := sorted(directory.glob(f"{_PREFIX}*.json"))):
            logger.warning(
                "%s was not listened to from here before, but %s was. If it is the same one by another address, name "
                "the time of the change with --since: what has stopped since then is not known here.",
                catalog,
                ", ".join(map(_catalog_in, others)),
            )

    def new_among(self, runs: Iterable[StoredRun]) -> Iterator[StoredRun]:
        """Yield those that were not there at the last look, of all runs of the catalog, newest first.

        Where somebody has deleted most of those that are known, there may be few of them in a row, and no end. Then
        what comes after the last one is older, unless all that there was is known.
        """
        knows_all = len(self.newest) < self.MOST
        in_a_row, held, met = 0, list[StoredRun](), False
        for run in runs:
            if run.key in self.newest:
                yield from held
                in_a_row, held, met = in_a_row + 1, [], True
                if in_a_row == IN_A_ROW:
                    return
                continue
            in_a_row = 0
            if knows_all or not met:
                yield run
                continue
            held.append(run)
            if len(held) > self.MOST:
                return

    def complete(self, newest: Iterable[str], begun: Iterable[str]) -> None:
        """Take note of a complete look: the runs that it met, newest first, and those among them that go on."""
        self.newest = dict.fromkeys(islice(dict.fromkeys([*newest, *self.newest]), self.MOST))
        self.open = dict.fromkeys([*begun, *self.open])
        if left := list(islice(self.open, self.MOST_OPEN, None)):
            logger.warning(
                "%d runs have had no stop document for long, such as %s; they are no longer asked for",
                len(left),
                left[0],
            )
            self.open = dict.fromkeys(islice(self.open, self.MOST_OPEN))
        self.is_new = False

    def next_open(self, number: int) -> list[str]:
        """Return so many of the runs that go on, others each time."""
        some = list(islice(self.open, number))
        for uid in some:
            self.open[uid] = self.open.pop(uid)
        return some

    def stopped(self, uid: str) -> None:
        """Take note that a run goes on no more."""
        self.open.pop(uid, None)

    def save(self) -> None:
        """Write the file if there is news; raises `OSError`."""
        known = {"catalog": self._catalog, "newest": [*self.newest], "open": sorted(self.open)}
        if (content := json.dumps(known).encode()) != self._saved:
            write_whole(self.path, content, private=True)
            self._saved = content

    def _read(self) -> bool:
        try:
            content: dict[str, Any] = json.loads(self.path.read_bytes())
            self.newest, self.open = (dict.fromkeys(map(str, content[name])) for name in ("newest", "open"))
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning(
                "%s cannot be read, so this counts as a first start: %s. What has stopped since the last one is found "
                "with --since.",
                self.path,
                error_line(error),
            )
            return False
        return True


def _catalog_in(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes())["catalog"])
    except (OSError, ValueError, KeyError, TypeError):
        return path.name
