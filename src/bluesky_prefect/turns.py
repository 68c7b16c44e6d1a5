"""Whose turn it is: which of the waiting submissions is sent next."""

import sqlite3
from collections.abc import Collection

from bluesky_prefect.entry import holder, is_due

# A longer queue takes a Prefect server on SQLite more than ten seconds: long enough for somebody at the beamline to
# wait for the flow run of the scan just taken.
KEPT_IN_ORDER = 100

# Each of these looks up a few rows of the index entries_by_state, however many wait.
_DEPLOYMENTS = """
WITH RECURSIVE names (name) AS (
    SELECT min(deployment) FROM entries WHERE state = 'waiting'
    UNION ALL
    SELECT (SELECT min(deployment) FROM entries WHERE state = 'waiting' AND deployment > name)
    FROM names WHERE name IS NOT NULL
)
SELECT name FROM names WHERE name IS NOT NULL
"""
_OLDEST = "SELECT * FROM entries WHERE state = 'waiting' AND deployment = ? AND aside = 0 ORDER BY seq LIMIT 1"
_NEWEST = "SELECT * FROM entries WHERE state = 'waiting' AND deployment = ? AND aside = 0 ORDER BY seq DESC LIMIT 1"
_IS_LONG = "SELECT 1 FROM entries WHERE state = 'waiting' AND deployment = ? AND aside = 0 LIMIT 1 OFFSET ?"
_ASIDE = "SELECT * FROM entries WHERE state = 'waiting' AND deployment = ? AND aside = 1 ORDER BY seq"


class Turns:
    """Whose turn it is.

    Deployments take turns, and the submissions of one deployment go in the order they were put in; while the oldest is
    being sent or waits for its next attempt, the others wait with it. While more than `KEPT_IN_ORDER` of a deployment
    wait, every other one sent is the newest: the run just taken has its flow run soon, and the oldest move on too.
    Those that stand aside go when nothing else can.
    """

    def __init__(self) -> None:
        self._last = ""
        self._oldest_went: set[str] = set()

    def next(self, connection: sqlite3.Connection, now: float, skip: Collection[str] = ()) -> sqlite3.Row | None:
        """Return the row of the next submission that is due and free; this counts as its turn.

        Those of the deployments in `skip` are left out.
        """
        names = [name for [name] in connection.execute(_DEPLOYMENTS) if name not in skip]
        names.sort(key=lambda name: (name <= self._last, name))
        for name in names:
            if row := self._of(connection, name, now):
                self._last = name
                return row
        for name in names:
            rows = connection.execute(_ASIDE, (name,))
            if row := next((row for row in rows if _can_go(row, now)), None):
                return row
        return None

    def _of(self, connection: sqlite3.Connection, name: str, now: float) -> sqlite3.Row | None:
        oldest = connection.execute(_OLDEST, (name,)).fetchone()
        if oldest is None or not _can_go(oldest, now):
            return None
        if name in self._oldest_went and connection.execute(_IS_LONG, (name, KEPT_IN_ORDER)).fetchone():
            self._oldest_went.discard(name)
            newest = connection.execute(_NEWEST, (name,)).fetchone()
            if _can_go(newest, now):
                return newest
        self._oldest_went.add(name)
        return oldest


def _can_go(row: sqlite3.Row, now: float) -> bool:
    return is_due(row, now) and holder(row, now) is None
