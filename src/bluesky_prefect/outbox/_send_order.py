"""Whose turn it is: which of the waiting submissions is sent next."""

import json
import sqlite3
from collections.abc import Collection, Container

from bluesky_prefect.core import is_message
from bluesky_prefect.outbox._entry import CLOCK_SLACK_S, holder, is_due

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
# Of a deployment's queue only what is for the taker's server, or for any. Two look-ups, since one with OR reads it all.
_QUEUE = (
    "FROM entries WHERE state = 'waiting' AND deployment = :deployment AND aside = 0 "
    "AND run_uid NOT IN (SELECT value FROM json_each(:held)) AND api_url"
)
_END = """
SELECT * FROM entries WHERE seq = (
    SELECT {which}(seq) FROM (
        SELECT {which}(seq) AS seq {queue} IS NULL UNION ALL SELECT {which}(seq) {queue} = :api_url
    )
)
"""
_OLDEST, _NEWEST = (_END.format(which=which, queue=_QUEUE) for which in ("min", "max"))
_IS_LONG = f"""
SELECT 1 FROM (
    SELECT * FROM (SELECT 1 {_QUEUE} IS NULL LIMIT :kept + 1)
    UNION ALL
    SELECT * FROM (SELECT 1 {_QUEUE} = :api_url LIMIT :kept + 1)
) LIMIT 1 OFFSET :kept
"""  # noqa: S608 - this module's texts
# Those that `is_due` says are due. The index entries_aside holds all these columns: of a row itself SQLite would read
# the documents, which stand before them.
_ASIDE = """
SELECT seq, changed, leased_by, leased_until FROM entries
WHERE state = 'waiting' AND deployment = :deployment AND aside = 1 AND (api_url IS NULL OR api_url = :api_url)
AND (not_before <= :now OR changed > :set_back)
ORDER BY seq
"""
_HELD = "SELECT 1 FROM entries WHERE seq = :seq AND run_uid IN (SELECT value FROM json_each(:held))"


class SendOrder:
    """Whose turn it is.

    Deployments take turns, and the submissions of one deployment go in the order they were put in; while the oldest is
    being sent or waits for its next attempt, the others wait with it. While more than `KEPT_IN_ORDER` of a deployment
    wait, every other one sent is the newest: the run just taken has its flow run soon, and the oldest move on too.
    Those that stand aside go when nothing else can. Runs that are held are passed over: their data are on their way;
    messages need no data.
    """

    def __init__(self) -> None:
        self._last = ""
        self._oldest_went: set[str] = set()

    def next(
        self,
        connection: sqlite3.Connection,
        now: float,
        api_url: str | None,
        unreadable: Container[int],
        skip: Collection[str] = (),
        held_runs: Collection[str] = (),
    ) -> sqlite3.Row | None:
        """Return the row of the next submission that is due and free; this counts as its turn.

        It is for the server at `api_url`, or for any, and of none of the deployments to skip and the runs to hold.
        `now` is in seconds since the epoch; `unreadable` holds the numbers of submissions that stand aside and that
        this version cannot read.
        """
        runs = json.dumps(list(held_runs))
        names = [name for [name] in connection.execute(_DEPLOYMENTS) if name not in skip]
        held = {name: "[]" if is_message(name) else runs for name in names}
        names.sort(key=lambda name: (name <= self._last, name))
        for name in names:
            if row := self._of(connection, name, api_url, now, held[name]):
                self._last = name
                return row
        for name in names:
            values = {"deployment": name, "api_url": api_url, "now": now, "set_back": now + CLOCK_SLACK_S}
            for row in connection.execute(_ASIDE, values):
                if row["seq"] in unreadable or holder(row, now) is not None:
                    continue
                if not connection.execute(_HELD, {"seq": row["seq"], "held": held[name]}).fetchone():
                    return connection.execute("SELECT * FROM entries WHERE seq = ?", (row["seq"],)).fetchone()
        return None

    def _of(
        self, connection: sqlite3.Connection, name: str, api_url: str | None, now: float, held: str
    ) -> sqlite3.Row | None:
        values = {"deployment": name, "api_url": api_url, "kept": KEPT_IN_ORDER, "held": held}
        oldest = connection.execute(_OLDEST, values).fetchone()
        if oldest is None or not _can_go(oldest, now):
            return None
        if name in self._oldest_went and connection.execute(_IS_LONG, values).fetchone():
            self._oldest_went.discard(name)
            newest = connection.execute(_NEWEST, values).fetchone()
            if _can_go(newest, now):
                return newest
        self._oldest_went.add(name)
        return oldest


def _can_go(row: sqlite3.Row, now: float) -> bool:
    return is_due(row, now) and holder(row, now) is None
