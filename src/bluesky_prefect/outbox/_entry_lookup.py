"""Looking into an outbox: what is in it, and in which state."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bluesky_prefect.outbox._entry import Entry, OutboxCounts, State

if TYPE_CHECKING:
    import sqlite3

# A shorter beginning of a uid names too many runs.
SHORTEST_UID = 5
# Entries looked through for a scan id: others hold the same number elsewhere in their metadata.
_SCAN_ID_CANDIDATES = 200
# SQLite takes some 1,000 values in a statement, older ones no more.
_KEYS_AT_ONCE = 500
_UNSENT = "state IN ('waiting', 'dead')"


# Counted by the index alone, however many wait; only the first row of each deployment is read.
_BY_DEPLOYMENT = f"""
SELECT counted.state, counted.deployment, many, created FROM (
    SELECT state, deployment, count(*) AS many, min(seq) AS first
    FROM entries WHERE {_UNSENT} GROUP BY state, deployment
) AS counted JOIN entries ON seq = first
"""  # noqa: S608 - this module's texts


@dataclass(frozen=True)
class Unsent:
    """The submissions of a deployment that wait, or those that are dead.

    Attributes
    ----------
    deployment : str
        The submissions' own.
    state : {'waiting', 'dead'}
        In which state they are.
    count : int
        How many there are.
    since : float
        When the first of them was put in, in seconds since the epoch.
    """

    deployment: str
    state: State
    count: int
    since: float


class _Reader(Protocol):
    def read(self, query: str, values: tuple[Any, ...] = ()) -> "list[sqlite3.Row]":
        """Run a query; raises `OutboxError` if the file cannot be read."""
        ...


class EntryLookup:
    """Looks into an outbox, and changes nothing.

    Each method raises `OutboxError` if the file cannot be read. The clock gives the time in seconds since the epoch.
    """

    def __init__(self, reader: _Reader, clock: Callable[[], float]) -> None:
        self._reader = reader
        self._clock = clock

    def counts(self) -> OutboxCounts:
        """Return how many submissions are in each state."""
        rows = self._reader.read("SELECT state, count(*) AS many FROM entries GROUP BY state", ())
        return OutboxCounts(**{row["state"]: row["many"] for row in rows})

    def has_waiting(self) -> bool:
        """Return whether anything waits to be sent, whenever and wherever to."""
        return bool(self._reader.read("SELECT 1 FROM entries WHERE state = 'waiting' LIMIT 1"))

    def sent_after(self, time_s: float, limit: int) -> list[tuple[str | None, float]]:
        """Return the flow runs of what was sent after a time, and when that was, in seconds since the epoch.

        The last `limit`, newest first; by the index entries_done, however much is kept.
        """
        sent = "SELECT flow_run_id, changed FROM entries WHERE state = 'sent' AND changed > ?"
        rows = self._reader.read(f"{sent} ORDER BY changed DESC LIMIT ?", (time_s, limit))
        return [(flow_run_id, changed) for flow_run_id, changed in rows]

    def entries(
        self, *, run_uid: str | None = None, state: State | None = None, before: int | None = None, limit: int = 1000
    ) -> list[Entry]:
        """Return the newest entries, newest first.

        Parameters
        ----------
        run_uid : str, optional
            Only those of this run.
        state : {'waiting', 'sent', 'dead', 'declined'}, optional
            Only those in this state.
        before : int, optional
            Only those put in before the one with this `Entry.seq`: for reading page by page.
        limit : int, optional
            How many at most.
        """
        conditions = [("run_uid = ?", run_uid), ("state = ?", state), ("seq < ?", before)]
        return self._find([(text, value) for text, value in conditions if value is not None], limit)

    def oldest_unsent(self, limit: int) -> list[Entry]:
        """Return the first `limit` entries that are not sent, oldest first."""
        return self._find([(_UNSENT,)], limit, order="ASC")

    def named(self, name: str, *, unsent: bool = False, limit: int = 20) -> list[Entry]:
        """Return the entries that a person may mean, newest first.

        Parameters
        ----------
        name : str
            A key; or a run's uid, the first `SHORTEST_UID` or more characters of it, or its scan id.
        unsent : bool, optional
            Only those that wait or are dead.
        limit : int, optional
            How many at most.
        """
        if not name.isprintable():
            return []  # it is in no list that a person was shown, and may not even be text
        state = [(_UNSENT,)] if unsent else []
        for column in ("key", "run_uid"):
            if found := self._find([(f"{column} = ?", name), *state], limit):
                return found
        if len(name) >= SHORTEST_UID:
            # A range, unlike LIKE, takes every character as it is.
            found = self._find([("run_uid >= ?", name), ("run_uid < ?", name + chr(sys.maxunicode)), *state], limit)
        if name.isascii() and name.isdecimal() and len(name) < 20:
            # Submissions are written without blanks. Whether it is the run's own scan id is asked of the few left.
            texts = [f'"scan_id":{int(name)}{end}'.encode() for end in ",}"]
            holding = self._find([("instr(submission, ?) + instr(submission, ?)", *texts), *state], _SCAN_ID_CANDIDATES)
            found += [one for one in holding if one.scan_id == int(name)][:limit]
        return found

    def declined(self, keys: Iterable[str]) -> set[str]:
        """Return those of these keys whose workflow did not want its run."""
        asked = list(dict.fromkeys(keys))
        found: set[str] = set()
        for begin in range(0, len(asked), _KEYS_AT_ONCE):
            some = asked[begin : begin + _KEYS_AT_ONCE]
            query = f"SELECT key FROM entries WHERE state = 'declined' AND key IN ({', '.join('?' * len(some))})"  # noqa: S608
            found.update(key for [key] in self._reader.read(query, tuple(some)))
        return found

    def unsent_by_address(self) -> dict[str | None, int]:
        """Return how many wait or are dead, by the address of the Prefect API that they are for (None: any)."""
        return self._by_address(_UNSENT)

    def waiting_by_address(self, *, for_s: float = 0.0) -> dict[str | None, int]:
        """Return how many wait, and have done so for that long, by the address that they are for."""
        # The entries come in the order in which they were put in: only those since then are read, and the index alone
        # counts the others, however many wait.
        last = "SELECT seq FROM entries WHERE created <= ? ORDER BY seq DESC LIMIT 1"
        return self._by_address(f"state = 'waiting' AND seq <= ({last})", self._clock() - for_s)

    def unsent_by_deployment(self) -> list[Unsent]:
        """Return how many wait or are dead of each deployment, and since when."""
        rows = self._reader.read(_BY_DEPLOYMENT)
        return [Unsent(row["deployment"], row["state"], row["many"], row["created"]) for row in rows]

    def _by_address(self, which: str, *values: float) -> dict[str | None, int]:
        # Grouped as the index entries_by_state is ordered: grouped by address alone, SQLite sorts all that wait.
        groups = "GROUP BY state, deployment, aside, api_url"
        query = f"SELECT api_url, count(*) FROM entries WHERE {which} {groups}"  # noqa: S608 - this module's texts
        found: Counter[str | None] = Counter()
        for address, many in self._reader.read(query, values):
            found[address] += many
        return dict(found)

    def _find(self, conditions: Sequence[tuple[Any, ...]], limit: int, order: str = "DESC") -> list[Entry]:
        """Return the newest (or oldest) entries for which all conditions (SQL text, values) hold."""
        where = " AND ".join(text for text, *_ in conditions) or "1"
        values = [value for _, *values in conditions for value in values]
        # Ordered by their numbers first: only the rows that are returned are sorted as a whole.
        numbers = f"SELECT seq FROM entries WHERE {where} ORDER BY seq {order} LIMIT ?"  # noqa: S608 - this module's texts
        rows = self._reader.read(
            f"SELECT * FROM entries WHERE seq IN ({numbers}) ORDER BY seq {order}",  # noqa: S608
            (*values, limit),
        )
        now = self._clock()
        return [Entry.from_row(row, now) for row in rows]
