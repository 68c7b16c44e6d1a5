"""The runs of a catalog that a listener has seen, kept over its restarts."""

import json
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from bluesky_prefect.core import write_whole

# A look that meets so many known runs in a row has met all that is new.
# Runs that were begun at the same moment may come to Tiled in another order than they are listed in.
IN_A_ROW = 20


class SeenRuns:
    """The newest runs at the last complete look, those of them that had not stopped, and since when runs are wanted.

    Parameters
    ----------
    path : Path
        The file.
    catalog : str
        Address of the catalog; what a file says of another one is not taken.
    """

    # So many runs are kept.
    MOST = 1000

    def __init__(self, path: Path, catalog: str) -> None:
        self._path = path
        self._catalog = catalog
        self.since = time.time()
        self.newest: dict[str, None] = {}
        self.open: dict[str, None] = {}
        self.is_new = not self._read()

    def complete(self, newest: Iterable[str], begun: Iterable[str]) -> None:
        """Take note of a complete look: the runs that it met, newest first, and those among them that go on."""
        self.newest = dict.fromkeys([*newest, *self.newest][: self.MOST])
        self.open = {uid: None for uid in (*begun, *self.open) if uid in self.newest}

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
        """Write the file; raises `OSError`."""
        content = {"catalog": self._catalog, "since": self.since, "newest": [*self.newest], "open": [*self.open]}
        write_whole(self._path, json.dumps(content).encode(), private=True)

    def _read(self) -> bool:
        try:
            content: dict[str, Any] = json.loads(self._path.read_bytes())
            if content["catalog"] != self._catalog:
                return False
            since = float(content["since"])
            newest, begun = (dict.fromkeys(map(str, content[name])) for name in ("newest", "open"))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False  # the first start, or a file that is spoilt
        self.since, self.newest, self.open = since, newest, begun
        return True
