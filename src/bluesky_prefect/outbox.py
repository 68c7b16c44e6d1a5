"""A durable queue of submissions in one SQLite file."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bluesky_prefect.connection import SharedConnection
from bluesky_prefect.entry import SCHEMA, SCHEMA_VERSION, Entry, OutboxCounts, State, entry
from bluesky_prefect.exceptions import OutboxError
from bluesky_prefect.submission import Submission
from bluesky_prefect.turns import Turns

# One transaction deletes no more, so that it holds up nobody: SQLite may overwrite what it deletes, megabytes of it.
PRUNED_AT_ONCE = 50
# A shorter beginning of a uid names too many runs.
SHORTEST_UID = 5
# Entries looked through for a scan id: others hold the same number elsewhere in their metadata.
_SCAN_ID_CANDIDATES = 200


class Outbox:
    """A durable queue of submissions in one SQLite file.

    Several threads and several processes may work on one file. What `put` has returned from is on disk; each
    submission is handed to one taker at a time (a lease), again and again until it is marked sent or dead.
    In which order, `Turns` says.

    The file is opened when it is first needed, and again after it could not be.

    Parameters
    ----------
    path : Path or None
        The file; made, with its directory (0700), if it is not there. It should lie on a local disk. In a directory
        that a group shares (2770) it is the group's.
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
        self._turns = Turns()
        # Only `put` waits for the disk. What the sending side writes may be lost in a power cut: that repeats a
        # request which Prefect knows by its idempotency key. In memory there is one database, so one connection.
        self._relaxed = SharedConnection(path, SCHEMA, SCHEMA_VERSION, durable=False)
        self._durable = SharedConnection(path, SCHEMA, SCHEMA_VERSION, durable=True) if path else self._relaxed

    @property
    def _me(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}"  # not that of the process that this one was forked from

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
        state: State = "waiting" if dead is None else "dead"
        content = submission.to_json()  # before anybody has to wait for it
        with self._durable.change(f"run {submission.run_uid} cannot be written") as connection:
            cursor = connection.execute(
                "INSERT INTO entries (key, run_uid, deployment, submission, state, reason, created, changed) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (submission.key, submission.run_uid, submission.deployment, content, state, dead, now, now),
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
            row = self._turns.next(connection, now)
            if row is None:
                return None
            connection.execute(
                "UPDATE entries SET leased_by = ?, leased_until = ?, not_before = 0, changed = ? WHERE seq = ?",
                (self._me, now + self._lease_s, now, row["seq"]),
            )
            return entry(row, now)

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
        """Free a submission that this process has taken, to be taken again after `delay_s` seconds.

        With `aside`, those behind it in its deployment no longer wait for it. If another process has taken it over
        meanwhile, it is left alone.

        Raises
        ------
        OutboxError
            If the file cannot be written.
        """
        now = self._clock()
        with self._relaxed.change(f"{key} cannot be given back") as connection:
            connection.execute(
                "UPDATE entries SET attempts = attempts + 1, aside = ?, reason = ?, not_before = ?, changed = ?, "
                "leased_by = NULL, leased_until = NULL WHERE key = ? AND state = 'waiting' AND leased_by = ?",
                (aside, reason, now + delay_s, now, key, self._me),
            )

    def retry(self, key: str) -> bool:
        """Make a dead or delayed submission due at once, and return once that is on disk.

        Returns
        -------
        bool
            False if there is none of this key that can be sent; see `Entry.is_sendable`.

        Raises
        ------
        OutboxError
            If the file cannot be written.
        """
        now = self._clock()
        with self._durable.change(f"{key} cannot be retried") as connection:
            row = connection.execute("SELECT * FROM entries WHERE key = ?", (key,)).fetchone()
            found = row and entry(row, now)
            if not found or not found.is_sendable:
                return False
            if not found.held_by:  # else it is being sent at this moment
                connection.execute(
                    "UPDATE entries SET state = 'waiting', attempts = 0, aside = 0, not_before = 0, changed = ?, "
                    "leased_by = NULL, leased_until = NULL WHERE key = ?",
                    (now, key),
                )
            return True

    def discard(self, key: str) -> bool:
        """Delete a submission that is not sent, and return once that is on disk.

        Returns
        -------
        bool
            False if there is none of this key that can be deleted: it is sent, or somebody is sending it now.

        Raises
        ------
        OutboxError
            If the file cannot be written.
        """
        with self._durable.change(f"{key} cannot be discarded") as connection:
            row = connection.execute("SELECT * FROM entries WHERE key = ? AND state != 'sent'", (key,)).fetchone()
            if row is None or entry(row, self._clock()).held_by:
                return False
            connection.execute("DELETE FROM entries WHERE key = ?", (key,))
            return True

    def prune(self, age_days: float) -> int:
        """Delete submissions that were sent more than `age_days` days ago, at most `PRUNED_AT_ONCE`; return how many.

        Raises
        ------
        OutboxError
            If the file cannot be read or written.
        """
        oldest = self._clock() - age_days * 86400
        # Looked for outside the transaction: nobody has to wait for that.
        query = "SELECT seq FROM entries WHERE state = 'sent' AND changed < ? LIMIT ?"
        rows = [tuple(row) for row in self._relaxed.read(query, (oldest, PRUNED_AT_ONCE))]
        if rows:
            with self._relaxed.change("old submissions cannot be deleted") as connection:
                connection.executemany("DELETE FROM entries WHERE seq = ? AND state = 'sent'", rows)
        return len(rows)

    def counts(self) -> OutboxCounts:
        """Return how many submissions are in each state.

        Raises
        ------
        OutboxError
            If the file cannot be read.
        """
        rows = self._relaxed.read("SELECT state, count(*) AS many FROM entries GROUP BY state", ())
        return OutboxCounts(**{row["state"]: row["many"] for row in rows})

    def entries(
        self, *, run_uid: str | None = None, state: State | None = None, before: int | None = None, limit: int = 1000
    ) -> list[Entry]:
        """Return the newest entries, newest first.

        Parameters
        ----------
        run_uid : str, optional
            Only those of this run.
        state : {'waiting', 'sent', 'dead'}, optional
            Only those in this state.
        before : int, optional
            Only those put in before the one with this `Entry.seq`: for reading page by page.
        limit : int, optional
            How many at most.

        Raises
        ------
        OutboxError
            If the file cannot be read.
        """
        conditions = [("run_uid = ?", run_uid), ("state = ?", state), ("seq < ?", before)]
        return self._find([(text, value) for text, value in conditions if value is not None], limit)

    def oldest_unsent(self, limit: int) -> list[Entry]:
        """Return the first `limit` entries that are not sent, oldest first.

        Raises
        ------
        OutboxError
            If the file cannot be read.
        """
        return self._find([("state IN ('waiting', 'dead')",)], limit, order="ASC")

    def named(self, name: str, *, unsent: bool = False, limit: int = 20) -> list[Entry]:
        """Return the entries that a person may mean, newest first.

        Parameters
        ----------
        name : str
            A key; or a run's uid, the first `SHORTEST_UID` or more characters of it, or its scan id.
        unsent : bool, optional
            Only those that are not sent.
        limit : int, optional
            How many at most.

        Raises
        ------
        OutboxError
            If the file cannot be read.
        """
        if not name.isprintable():
            return []  # it is in no list that a person was shown, and may not even be text
        state = [("state != 'sent'",)] if unsent else []
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

    def _find(self, conditions: Sequence[tuple[Any, ...]], limit: int, order: str = "DESC") -> list[Entry]:
        """Return the newest (or oldest) entries for which all conditions (SQL text, values) hold."""
        where = " AND ".join(text for text, *_ in conditions) or "1"
        values = [value for _, *values in conditions for value in values]
        # Ordered by their numbers first: only the rows that are returned are sorted as a whole.
        numbers = f"SELECT seq FROM entries WHERE {where} ORDER BY seq {order} LIMIT ?"  # noqa: S608 - this module's texts
        rows = self._relaxed.read(
            f"SELECT * FROM entries WHERE seq IN ({numbers}) ORDER BY seq {order}",  # noqa: S608
            (*values, limit),
        )
        now = self._clock()
        return [entry(row, now) for row in rows]

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


@contextmanager
def existing_outbox(path: Path) -> Iterator[Outbox | None]:
    """Open an outbox for looking at it; None if there is no such file, which is no reason to make one.

    Raises
    ------
    OutboxError
        If it cannot be told whether there is one.
    """
    try:
        exists = path.exists()
    except OSError as error:
        raise OutboxError(f"Outbox {path}: it cannot be looked for: {error}.") from error
    if not exists:
        yield None
        return
    outbox = Outbox(path)
    try:
        yield outbox
    finally:
        outbox.close()
