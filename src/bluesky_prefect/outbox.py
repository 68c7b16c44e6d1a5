"""A durable queue of submissions in one SQLite file."""

import os
import socket
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bluesky_prefect.connection import SharedConnection
from bluesky_prefect.submission import Submission

State = Literal["waiting", "sent", "dead"]

SCHEMA_VERSION = 1
# Longer than any lease or delay in use: a time further ahead than this was written before the clock was set back.
FURTHEST_AHEAD_S = 4000.0

# Nothing here needs an SQLite newer than 3.24, which is what the older facility machines have.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    run_uid TEXT NOT NULL,
    deployment TEXT NOT NULL,
    submission BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'sent', 'dead')),
    attempts INTEGER NOT NULL DEFAULT 0,
    aside INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    not_before REAL NOT NULL DEFAULT 0,
    leased_by TEXT,
    leased_until REAL,
    flow_run_id TEXT,
    flow_run_name TEXT,
    created REAL NOT NULL,
    changed REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS entries_by_state ON entries (state, deployment, aside, seq);
CREATE INDEX IF NOT EXISTS entries_by_run ON entries (run_uid);
"""

# The oldest waiting submission of each deployment, if it is due and free; one that stands aside holds nobody up.
_NEXT = """
SELECT * FROM entries
WHERE state = 'waiting'
  AND (aside OR seq IN (SELECT min(seq) FROM entries WHERE state = 'waiting' AND NOT aside GROUP BY deployment))
  AND (not_before <= :now OR not_before > :too_far)
ORDER BY aside, seq
"""


@dataclass(frozen=True)
class Entry:
    """A submission in the outbox, and what became of it so far.

    Attributes
    ----------
    key, run_uid, deployment : str
        The submission's own.
    state : {'waiting', 'sent', 'dead'}
        Whether it is still to be sent, was accepted by Prefect, or will not be sent again by itself.
    attempts : int
        How often sending it has failed.
    reason : str or None
        Why the last attempt failed, or why it is dead.
    flow_run_id, flow_run_name : str or None
        The flow run that Prefect made of it.
    created, changed : float
        When it was put in and last changed, in seconds since the epoch.
    submission : Submission
        The submission itself.
    """

    key: str
    run_uid: str
    deployment: str
    state: State
    attempts: int
    reason: str | None
    flow_run_id: str | None
    flow_run_name: str | None
    created: float
    changed: float
    submission: Submission


@dataclass(frozen=True)
class OutboxCounts:
    """How many submissions an outbox holds in each state."""

    waiting: int = 0
    sent: int = 0
    dead: int = 0


class Outbox:
    """A durable queue of submissions in one SQLite file.

    Several threads and several processes may work on one file. What `put` has returned from is on disk; each
    submission is handed to one taker at a time (a lease), again and again until it is marked sent or dead.
    Submissions of one deployment are handed out in the order they were put in.

    The file is opened when it is first needed, and again after it could not be.

    Parameters
    ----------
    path : Path or None
        The file; made, with its directory (0700), if it is not there. It should lie on a local disk.
        None keeps everything in memory: what is left when no disk will have it.
    lease_s : float, optional
        How long a submission stays with one taker, in seconds, before another may have it.
    clock : callable, optional
        Gives the time in seconds since the epoch.
    """

    def __init__(self, path: Path | None, *, lease_s: float = 120.0, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._lease_s = lease_s
        self._clock = clock
        self._me = f"{socket.gethostname()}:{os.getpid()}"
        # Only `put` waits for the disk. What the sending side writes may be lost in a power cut: that repeats a
        # request which Prefect knows by its idempotency key. In memory there is one database, so one connection.
        self._relaxed = SharedConnection(path, _SCHEMA, SCHEMA_VERSION, durable=False)
        self._durable = SharedConnection(path, _SCHEMA, SCHEMA_VERSION, durable=True) if path else self._relaxed

    def put(self, submission: Submission, *, dead: str | None = None) -> bool:
        """Add `submission`, and return once it is on disk.

        Parameters
        ----------
        submission : Submission
            What to send.
        dead : str, optional
            Put it in as a dead letter, for this reason.

        Returns
        -------
        bool
            False if a submission with this key is in the outbox already; it is left as it is.

        Raises
        ------
        OutboxError
            If the file cannot be written.
        """
        now = self._clock()
        with self._durable.change(f"run {submission.run_uid} cannot be written") as connection:
            cursor = connection.execute(
                "INSERT INTO entries (key, run_uid, deployment, submission, state, reason, created, changed) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (
                    submission.key,
                    submission.run_uid,
                    submission.deployment,
                    submission.to_json(),
                    "waiting" if dead is None else "dead",
                    dead,
                    now,
                    now,
                ),
            )
            return cursor.rowcount == 1

    def take(self) -> Entry | None:
        """Lease the next submission that is due, or return None.

        Raises
        ------
        OutboxError
            If the file cannot be read or written.
        """
        if not self._relaxed.read("SELECT 1 FROM entries WHERE state = 'waiting' LIMIT 1", ()):
            return None  # the usual case: ask without the write lock
        now = self._clock()
        with self._relaxed.change("the next submission cannot be taken") as connection:
            rows = connection.execute(_NEXT, {"now": now, "too_far": now + FURTHEST_AHEAD_S})
            row = next((row for row in rows if self._is_free(row, now)), None)
            if row is None:
                return None
            connection.execute(
                "UPDATE entries SET leased_by = ?, leased_until = ? WHERE seq = ?",
                (self._me, now + self._lease_s, row["seq"]),
            )
            return _entry(row)

    def mark_sent(self, key: str, flow_run_id: str, flow_run_name: str) -> None:
        """Record that Prefect has accepted the submission `key`.

        Raises
        ------
        OutboxError
            If the file cannot be written.
        """
        self._settle(key, "sent", None, flow_run_id, flow_run_name)

    def mark_dead(self, key: str, reason: str) -> None:
        """Record that the submission `key` is not to be sent as it is, and why.

        Raises
        ------
        OutboxError
            If the file cannot be written.
        """
        self._settle(key, "dead", reason, None, None)

    def give_back(self, key: str, reason: str, delay_s: float, *, aside: bool = False) -> None:
        """Free a leased submission, to be taken again after `delay_s` seconds.

        With `aside`, those behind it in its deployment no longer wait for it.

        Raises
        ------
        OutboxError
            If the file cannot be written.
        """
        now = self._clock()
        with self._relaxed.change(f"{key} cannot be given back") as connection:
            connection.execute(
                "UPDATE entries SET attempts = attempts + 1, aside = ?, reason = ?, not_before = ?, changed = ?, "
                "leased_by = NULL, leased_until = NULL WHERE key = ? AND state = 'waiting'",
                (aside, reason, now + min(delay_s, FURTHEST_AHEAD_S), now, key),
            )

    def retry(self, key: str) -> bool:
        """Make a dead or delayed submission due at once; False if there is none of this key that is not sent.

        Raises
        ------
        OutboxError
            If the file cannot be written.
        """
        with self._relaxed.change(f"{key} cannot be retried") as connection:
            cursor = connection.execute(
                "UPDATE entries SET state = 'waiting', attempts = 0, aside = 0, not_before = 0, changed = ? "
                "WHERE key = ? AND state != 'sent'",
                (self._clock(), key),
            )
            return cursor.rowcount == 1

    def prune(self, age_days: float) -> int:
        """Delete submissions that were sent more than `age_days` days ago, and return how many.

        Raises
        ------
        OutboxError
            If the file cannot be written.
        """
        oldest = self._clock() - age_days * 86400
        with self._relaxed.change("old submissions cannot be deleted") as connection:
            return connection.execute("DELETE FROM entries WHERE state = 'sent' AND changed < ?", (oldest,)).rowcount

    def counts(self) -> OutboxCounts:
        """Return how many submissions are in each state.

        Raises
        ------
        OutboxError
            If the file cannot be read.
        """
        rows = self._relaxed.read("SELECT state, count(*) AS many FROM entries GROUP BY state", ())
        return OutboxCounts(**{row["state"]: row["many"] for row in rows})

    def entries(self, *, run_uid: str | None = None, state: State | None = None, limit: int = 1000) -> list[Entry]:
        """Return the newest entries, newest first, of one run or in one state if so asked.

        Raises
        ------
        OutboxError
            If the file cannot be read.
        """
        rows = self._relaxed.read(
            "SELECT * FROM entries WHERE (?1 IS NULL OR run_uid = ?1) AND (?2 IS NULL OR state = ?2) "
            "ORDER BY seq DESC LIMIT ?3",
            (run_uid, state, limit),
        )
        return [_entry(row) for row in rows]

    def discard(self, key: str) -> bool:
        """Delete a submission that is not sent; False if there is none of this key.

        Raises
        ------
        OutboxError
            If the file cannot be written.
        """
        with self._relaxed.change(f"{key} cannot be discarded") as connection:
            return connection.execute("DELETE FROM entries WHERE key = ? AND state != 'sent'", (key,)).rowcount == 1

    def close(self) -> None:
        """Close the file. What is in it stays; what is in memory is gone."""
        self._durable.close()
        self._relaxed.close()

    def _settle(
        self, key: str, state: State, reason: str | None, flow_run_id: str | None, flow_run_name: str | None
    ) -> None:
        with self._relaxed.change(f"{key} cannot be marked {state}") as connection:
            connection.execute(
                "UPDATE entries SET state = ?, reason = ?, flow_run_id = ?, flow_run_name = ?, changed = ?, "
                "leased_by = NULL, leased_until = NULL WHERE key = ? AND state != 'sent'",
                (state, reason, flow_run_id, flow_run_name, self._clock(), key),
            )

    def _is_free(self, row: sqlite3.Row, now: float) -> bool:
        leased_until = row["leased_until"]
        if leased_until is None or leased_until <= now or leased_until > now + FURTHEST_AHEAD_S:
            return True
        return not _may_be_alive(row["leased_by"])


def _may_be_alive(holder: str) -> bool:
    """Tell whether the process that holds a lease may still run; one of another machine may."""
    host, _, pid = holder.rpartition(":")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _entry(row: sqlite3.Row) -> Entry:
    values = {name: row[name] for name in Entry.__dataclass_fields__ if name != "submission"}
    return Entry(**values, submission=Submission.from_json(row["submission"]))
