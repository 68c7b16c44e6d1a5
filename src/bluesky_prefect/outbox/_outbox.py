"""A durable queue of submissions in one SQLite file."""

import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path

from bluesky_prefect.core import Submission, Written
from bluesky_prefect.outbox._entry import DRAFT_COLUMNS, OF_ONE_FILE, Draft, Entry, State, holder, insertion
from bluesky_prefect.outbox._entry_lookup import EntryLookup
from bluesky_prefect.outbox._format_files import OutboxFile
from bluesky_prefect.outbox._lease_holder import this_process
from bluesky_prefect.outbox._send_order import SendOrder
from bluesky_prefect.outbox._sqlite_file import SQLiteFile

logger = logging.getLogger(__name__)

# One transaction deletes no more, so that it holds up nobody: SQLite may overwrite what it deletes, megabytes of it.
PRUNED_AT_ONCE = 50
# One transaction takes over no more from another outbox.
ADOPTED_AT_ONCE = 100


class Outbox(EntryLookup):
    """A durable queue of submissions in one SQLite file.

    Several threads and several processes may work on one file. What `put` has returned from is on disk; each
    submission is handed to one taker at a time (a lease), again and again until it is marked sent or dead.
    In which order, `SendOrder` says.

    The file is opened when it is first needed, and again after it could not be. Where a newer version has changed its
    format, one beside it is used; see `OutboxFile`. Each method raises `OutboxError` if it cannot be read or written.

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
    keep_format : bool, optional
        Leave an older format as it is; then all that may be done with it is to have another outbox adopt it.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        lease_s: float = 120.0,
        clock: Callable[[], float] = time.time,
        keep_format: bool = False,
    ) -> None:
        self._file = OutboxFile(path)
        self._lease_s = lease_s
        self._turns = SendOrder()
        self._unreadable: set[int] = set()
        # Only `put` waits for the disk. What the sending side writes may be lost in a power cut: that repeats a
        # request which Prefect knows by its idempotency key. In memory there is one database, so one connection.
        self._relaxed = SQLiteFile(self._file, durable=False, keep_format=keep_format)
        super().__init__(self._relaxed, clock)
        self._durable = SQLiteFile(self._file, durable=True) if path else self._relaxed

    @property
    def path(self) -> Path | None:
        """The file that is used; None in memory."""
        return self._file.path

    def put(self, submission: Submission, *, dead: str | None = None, api_url: str | None = None) -> bool:
        """Add `submission` as `put_all` does: as a dead letter, if `dead` says why.

        Returns
        -------
        bool
            False if a submission with this key is in the outbox already; it is left as it is.
        """
        return not self.put_all([Draft(submission, "waiting" if dead is None else "dead", dead)], api_url=api_url)

    def put_all(
        self, drafts: Sequence[Draft], *, api_url: str | None = None, written: Written | None = None
    ) -> list[Entry]:
        """Add the submissions of a run, all of them or none, and return once they are on disk.

        Parameters
        ----------
        drafts : sequence of Draft
            What to add.
        api_url : str, optional
            Address of the Prefect API that they are for, as `comparable_url` writes it; any by default.
        written : dict, optional
            See `Submission.to_json`.

        Returns
        -------
        list of Entry
            What is in the outbox already under one of their keys. It is left as it is; but what was declined before,
            and is wanted now, is replaced.
        """
        now = self._clock()
        written = {} if written is None else written
        # Converted before anybody has to wait for it.
        rows = [draft.row(written, api_url, now) for draft in drafts]
        if not rows:
            return []
        with self._durable.change(f"run {drafts[0].submission.run_uid} cannot be written") as connection:
            present = [row[0] for row in rows if connection.execute(insertion(DRAFT_COLUMNS), row).rowcount == 0]
            found = [connection.execute("SELECT * FROM entries WHERE key = ?", (key,)).fetchone() for key in present]
        return [Entry.from_row(row, now) for row in found]

    def take(
        self, api_url: str | None = None, *, skip: Collection[str] = (), held_runs: Collection[str] = ()
    ) -> Entry | None:
        """Lease the next submission that is due, or return None.

        One that this version cannot read stays where it is, for others, and holds nobody up.

        Parameters
        ----------
        api_url : str, optional
            Address of the Prefect API that it will be sent to. Only what is for that address is taken, or for any.
        skip, held_runs : collection of str, optional
            Deployments, and uids of runs, whose submissions wait.
        """
        if not self.has_waiting():
            return None  # the usual case: ask without the write lock
        now = self._clock()
        with self._relaxed.change("the next submission cannot be taken") as connection:
            while row := self._turns.next(connection, now, api_url, self._unreadable, skip, held_runs):
                found = Entry.from_row(row, now)
                if found.is_readable:
                    connection.execute(
                        "UPDATE entries SET leased_by = ?, leased_until = ?, not_before = 0, changed = ? WHERE seq = ?",
                        (this_process(), now + self._lease_s, now, found.seq),
                    )
                    return found
                self._leave(connection, found)
        return None

    def age_s(self, entry: Entry) -> float:
        """Return how long ago a submission was put in, in seconds; 0 if the clock was set back meanwhile."""
        return max(0.0, self._clock() - entry.created)

    def mark_sent(
        self, key: str, flow_run_id: str | None = None, flow_run_name: str | None = None, *, api_url: str | None = None
    ) -> None:
        """Record that Prefect has accepted the submission `key`, and which flow run it made of it, if any.

        With `api_url`, the address of the API that did, only what is for that address or for any is marked; by
        default, whatever it is for.
        """
        self._settle(key, "sent", None, flow_run_id, flow_run_name, api_url)

    def mark_dead(self, key: str, reason: str) -> None:
        """Record that the submission `key` is not to be sent as it is, and why."""
        self._settle(key, "dead", reason, None, None)

    def give_back(self, key: str, reason: str, delay_s: float, *, aside: bool = False) -> None:
        """Free a submission that this process has taken, to be taken again after `delay_s` seconds.

        With `aside`, those behind it in its deployment no longer wait for it. If another process has taken it over
        meanwhile, it is left alone.
        """
        now = self._clock()
        with self._relaxed.change(f"{key} cannot be given back") as connection:
            connection.execute(
                "UPDATE entries SET attempts = attempts + 1, aside = ?, reason = ?, not_before = ?, changed = ?, "
                "leased_by = NULL, leased_until = NULL WHERE key = ? AND state = 'waiting' AND leased_by = ?",
                (aside, reason, now + delay_s, now, key, this_process()),
            )

    def retry(self, key: str) -> bool:
        """Make a dead or delayed submission due at once, and return once that is on disk.

        Returns
        -------
        bool
            False if there is none of this key that can be sent; see `Entry.is_sendable`.
        """
        now = self._clock()
        with self._durable.change(f"{key} cannot be retried") as connection:
            row = connection.execute("SELECT * FROM entries WHERE key = ?", (key,)).fetchone()
            found = row and Entry.from_row(row, now)
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
        """
        with self._durable.change(f"{key} cannot be discarded") as connection:
            row = connection.execute("SELECT * FROM entries WHERE key = ? AND state != 'sent'", (key,)).fetchone()
            if row is None or Entry.from_row(row, self._clock()).held_by:
                return False
            connection.execute("DELETE FROM entries WHERE key = ?", (key,))
            return True

    def move(self, to: str, *, source: str | None = None) -> int:
        """Have what waits or is dead sent to another Prefect API, and return how many once that is on disk.

        What somebody is sending at this moment stays for where it is sent to.

        Parameters
        ----------
        to : str
            Its address, as `comparable_url` writes it.
        source : str, optional
            Only what is for this address; by default all that is for any other than `to`.
        """
        now = self._clock()
        which, address = ("api_url != ?", to) if source is None else ("api_url = ?", source)
        columns = "seq, changed, leased_by, leased_until"
        query = f"SELECT {columns} FROM entries WHERE state IN ('waiting', 'dead') AND {which}"  # noqa: S608 - texts of ours
        with self._durable.change("the submissions cannot be moved") as connection:
            free = [row["seq"] for row in connection.execute(query, (address,)) if holder(row, now) is None]
            connection.executemany(
                "UPDATE entries SET api_url = ?, attempts = 0, not_before = 0, changed = ? WHERE seq = ?",
                [(to, now, seq) for seq in free],
            )
            return len(free)

    def adopt(self, other: "Outbox") -> list[str]:
        """Move what is in another outbox to this one; return the runs whose submissions came, once they are on disk.

        At most `ADOPTED_AT_ONCE`. What somebody is sending at this moment stays there, and what is here already stays
        as it is here. A process killed in the middle leaves it in both.
        """
        rows = other._relaxed.read("SELECT * FROM entries ORDER BY seq LIMIT ?", (ADOPTED_AT_ONCE,))
        free = [row for row in rows if row["state"] != "waiting" or holder(row, self._clock()) is None]
        if not free:
            return []
        columns = tuple(name for name in free[0].keys() if name not in OF_ONE_FILE)  # noqa: SIM118 - a Row
        # A connection of its own: on that of `put`, a RunEngine would wait for this as well.
        durable = SQLiteFile(self._file, durable=True)
        trouble = f"what is in {other.path or 'memory'} cannot be moved there"
        with closing(durable), durable.change(trouble) as connection:
            connection.executemany(insertion(columns), [tuple(row[name] for name in columns) for row in free])
        with other._relaxed.change("what was moved cannot be deleted") as connection:
            connection.executemany(
                "DELETE FROM entries WHERE seq = ? AND changed = ?", [(row["seq"], row["changed"]) for row in free]
            )
        return [row["run_uid"] for row in free]

    def adopt_siblings(self) -> None:
        """Move what sessions of older versions have put beside this outbox to it."""
        for path in self._file.siblings():
            with closing(Outbox(path, clock=self._clock, keep_format=True)) as sibling:
                while len(self.adopt(sibling)) == ADOPTED_AT_ONCE:
                    pass

    def prune(self, age_days: float, *, states: Sequence[State] = ("sent", "declined")) -> int:
        """Delete what was sent or declined over `age_days` days ago, at most `PRUNED_AT_ONCE`; return how many."""
        oldest = self._clock() - age_days * 86400
        # Looked for outside the transaction: nobody has to wait for that. By the index entries_done, which SQLite takes
        # only where the state stands in the query.
        queries = [f"SELECT seq, state FROM entries WHERE state = '{one}' AND changed < ? LIMIT ?" for one in states]  # noqa: S608
        rows = [tuple(row) for query in queries for row in self._relaxed.read(query, (oldest, PRUNED_AT_ONCE))]
        if rows := rows[:PRUNED_AT_ONCE]:
            with self._relaxed.change("old submissions cannot be deleted") as connection:
                connection.executemany("DELETE FROM entries WHERE seq = ? AND state = ?", rows)
        # Where nothing is sent, since no workflow wants a run, nobody else copies the log back into the file.
        self._relaxed.read("PRAGMA wal_checkpoint(PASSIVE)", ())
        return len(rows)

    def close(self) -> None:
        """Close the file. What is in it stays; what is in memory is gone."""
        self._durable.close()
        self._relaxed.close()

    def _leave(self, connection: sqlite3.Connection, unreadable: Entry) -> None:
        """Leave a submission that this version cannot read for others, where it holds nobody up."""
        self._unreadable.add(unreadable.seq)
        reason = "this version of bluesky-prefect cannot read it; one that can will send it"
        connection.execute("UPDATE entries SET aside = 1, reason = ? WHERE seq = ?", (reason, unreadable.seq))
        logger.warning("Run %s: %s waits: %s", unreadable.run_uid, unreadable.key, reason)

    def _settle(
        self,
        key: str,
        state: State,
        reason: str | None,
        flow_run_id: str | None,
        flow_run_name: str | None,
        api_url: str | None = None,
    ) -> None:
        with self._relaxed.change(f"{key} cannot be marked {state}") as connection:
            connection.execute(
                "UPDATE entries SET state = ?, reason = ?, flow_run_id = ?, flow_run_name = ?, changed = ?, "
                "leased_by = NULL, leased_until = NULL WHERE key = ? AND state != 'sent' "
                "AND (? IS NULL OR api_url IS NULL OR api_url = ?)",
                (state, reason, flow_run_id, flow_run_name, self._clock(), key, api_url, api_url),
            )
