"""The start documents and files of runs that go on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

# Runs without a stop document (a killed RunEngine upstream of a dispatcher) must not pile up, however large they are.
MAX_OPEN_RUNS = 1000
_MAX_BYTES = 64_000_000


@dataclass
class OpenRun:
    """A run that goes on.

    Attributes
    ----------
    uid : str
        Its uid.
    start : dict
        Its start document, of JSON values.
    files : dict
        The addresses of its files, which a dictionary holds in order and each once.
    size : int
        Length of all that, in bytes.
    """

    uid: str
    start: dict[str, Any]
    files: dict[str, None] = field(default_factory=dict)
    size: int = 0


class OpenRuns:
    """The runs that go on, bounded in number and in size; the newest stays, whatever its size is."""

    def __init__(self) -> None:
        self._runs: dict[str, OpenRun] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, uid: str, start: Mapping[str, Any]) -> None:
        """Note that a run has begun."""
        self.pop(uid)
        self._runs[uid] = OpenRun(uid, dict(start))
        self._grow(self._runs[uid], len(orjson.dumps(start)))

    def add_file(self, uid: str | None, uri: str) -> None:
        """Note a file of a run; of the only one, if the run is not named, as older documents do not name it."""
        if uid is None:
            run = next(iter(self._runs.values())) if len(self._runs) == 1 else None
        else:
            run = self._runs.get(uid)
        if run is not None and uri not in run.files:
            run.files[uri] = None
            self._grow(run, len(uri))

    def pop(self, uid: str) -> OpenRun | None:
        """Forget a run, and return what is known of it."""
        run = self._runs.pop(uid, None)
        if run is not None:
            self._bytes -= run.size
        return run

    def pop_superfluous(self) -> OpenRun | None:
        """Forget the oldest, if these are too many or too much, and return it."""
        if len(self._runs) > MAX_OPEN_RUNS or (self._bytes > _MAX_BYTES and len(self._runs) > 1):
            return self.pop(next(iter(self._runs)))
        return None

    def _grow(self, run: OpenRun, size: int) -> None:
        run.size += size
        self._bytes += size
