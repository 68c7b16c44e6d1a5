"""The start documents of runs that have stopped, in case a stop document comes again."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

# A stop comes again in a replay, or from a second source of the same documents.
_MOST = 1000
_MAX_BYTES = 32_000_000


class RecentRuns:
    """The last runs as JSON, bounded in number and in size."""

    def __init__(self) -> None:
        self._runs: dict[str, bytes] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def remember(self, uid: str, start: Mapping[str, Any], files: Iterable[str]) -> orjson.Fragment:
        """Keep a run's start document and files, in the place of those of the oldest; return the document as JSON."""
        document = orjson.Fragment(orjson.dumps(start))
        text = orjson.dumps((document, list(files)))
        with self._lock:
            self._forget(uid)
            self._runs[uid] = text
            self._bytes += len(text)
            while len(self._runs) > _MOST or self._bytes > _MAX_BYTES:
                self._forget(next(iter(self._runs)))
        return document

    def find(self, uid: str) -> tuple[dict[str, Any], list[str]] | None:
        """Return a run's start document and files; None if they are not kept."""
        text = self._runs.get(uid)
        return None if text is None else orjson.loads(text)

    def _forget(self, uid: str) -> None:
        self._bytes -= len(self._runs.pop(uid, b""))
