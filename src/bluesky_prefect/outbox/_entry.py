"""A submission in the outbox, and what became of it so far.

Files outlive versions, and sessions of several versions may have one open. The rule for a change:

- A new field of a submission that a version may pass over without harm is just added: who does not know it passes it
  over. What a version cannot read at all it leaves, untouched, for others.
- What changes a meaning, a column or a state makes a new format: one more step at the end of `FORMATS`. A step that was
  released is never edited. A session of the version before that has the file open has to be able to go on: the
  statements it uses must still do what it means by them. One that opens the file later keeps to a file of its own; see
  `bluesky_prefect.outbox._format_files`.
"""

import sqlite3
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, Self

from bluesky_prefect.core import OutboxError, Submission, Written, is_message, is_number
from bluesky_prefect.outbox._lease_holder import host_and_pid, may_be_alive

State = Literal["waiting", "sent", "dead", "declined"]

# Nothing here needs an SQLite newer than 3.24, which is what the older facility machines have.
_FORMAT_1 = (
    """
    CREATE TABLE entries (
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
    )
    """,
    "CREATE INDEX entries_by_state ON entries (state, deployment, aside, seq)",
    "CREATE INDEX entries_by_run ON entries (run_uid)",
)
# The state 'declined', and the address of Prefect's API. A session of format 1 puts entries in for any address.
_FORMAT_2 = (
    """
    CREATE TABLE entries_of_format_2 (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        run_uid TEXT NOT NULL,
        deployment TEXT NOT NULL,
        submission BLOB NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('waiting', 'sent', 'dead', 'declined')),
        attempts INTEGER NOT NULL DEFAULT 0,
        aside INTEGER NOT NULL DEFAULT 0,
        reason TEXT,
        not_before REAL NOT NULL DEFAULT 0,
        leased_by TEXT,
        leased_until REAL,
        flow_run_id TEXT,
        flow_run_name TEXT,
        created REAL NOT NULL,
        changed REAL NOT NULL,
        api_url TEXT
    )
    """,
    "INSERT INTO entries_of_format_2 SELECT *, NULL FROM entries ORDER BY seq",
    "DROP TABLE entries",
    "ALTER TABLE entries_of_format_2 RENAME TO entries",
    "CREATE INDEX entries_by_state ON entries (state, deployment, aside, api_url, seq)",
    "CREATE INDEX entries_by_run ON entries (run_uid)",
)
FORMATS = (_FORMAT_1, _FORMAT_2)
# Made in any file of the newest format that lacks them. They change no meaning, and other versions keep them up.
INDEXES = (
    """
    CREATE INDEX IF NOT EXISTS entries_aside ON entries (
        state, deployment, aside, api_url, seq, not_before, changed, leased_until, leased_by
    ) WHERE aside = 1
    """,
    "CREATE INDEX IF NOT EXISTS entries_done ON entries (state, changed) WHERE state = 'sent' OR state = 'declined'",
)

DRAFT_COLUMNS = ("key", "run_uid", "deployment", "submission", "state", "reason", "api_url", "created", "changed")
# What does not come along where an entry is moved to another file.
OF_ONE_FILE = {"seq", "leased_by", "leased_until"}

# A row whose last change lies further ahead was written before the clock was set back: its times mean nothing now.
CLOCK_SLACK_S = 1.0


@dataclass(frozen=True)
class Draft:
    """A submission that is to be put in the outbox.

    Attributes
    ----------
    submission : Submission
        What to send.
    state : {'waiting', 'dead', 'declined'}
        To be sent; a dead letter from the beginning; or not wanted, which is kept for others to know.
    reason : str or None
        Why it is dead or declined.
    """

    submission: Submission
    state: State = "waiting"
    reason: str | None = None

    def row(self, written: Written, api_url: str | None, now: float) -> tuple[Any, ...]:
        """Return the values of `DRAFT_COLUMNS`; for `written` see `Submission.to_json`."""
        one = self.submission
        submitted = one.key, one.run_uid, one.deployment, one.to_json(written)
        return *submitted, self.state, self.reason, api_url, now, now


@dataclass(frozen=True)
class Entry:
    """A submission in the outbox, and what became of it so far.

    Attributes
    ----------
    seq : int
        Its place in the order in which submissions were put in.
    key, run_uid, deployment : str
        The submission's own.
    state : {'waiting', 'sent', 'dead', 'declined'}
        Whether it is still to be sent, was accepted by Prefect, will not be sent again by itself, or was not wanted:
        the workflow's ``when=`` refused the run.
    attempts : int
        How often sending it has failed.
    reason : str or None
        Why the last attempt failed, or why it is dead.
    due : float or None
        When it is to be sent next, in seconds since the epoch; None if it is due already, or not to be sent.
    held_by : str or None
        The process (``host:pid``) that is sending it now.
    flow_run_id, flow_run_name : str or None
        The flow run that Prefect made of it.
    created, changed : float
        When it was put in and last changed, in seconds since the epoch.
    submission_json : bytes
        The submission itself, as it stands in the file.
    api_url : str or None
        Address of the Prefect API that it is for; None if any will do.
    """

    seq: int
    key: str
    run_uid: str
    deployment: str
    state: State
    attempts: int
    reason: str | None
    due: float | None
    held_by: str | None
    flow_run_id: str | None
    flow_run_name: str | None
    created: float
    changed: float
    submission_json: bytes
    api_url: str | None = None

    @classmethod
    def from_row(cls, row: sqlite3.Row, now: float) -> Self:
        """Return the entry in a row, as it is `now`."""
        same = {name: row[name] for name in row.keys() if name in cls.__dataclass_fields__}  # noqa: SIM118 - a Row
        waits = row["state"] == "waiting"
        return cls(
            **same,
            due=None if not waits or is_due(row, now) else row["not_before"],
            held_by=holder(row, now) if waits else None,
            submission_json=row["submission"],
        )

    @property
    def delay_s(self) -> float:
        """Seconds from its run's stop until it was put in, by the clocks of both; 0 if nobody knows."""
        stopped = self.submission.stop.get("time")
        return self.created - float(stopped) if is_number(stopped) else 0.0

    @cached_property
    def submission(self) -> Submission:
        """The submission itself.

        Raises
        ------
        OutboxError
            If what stands in the file is not one that this version knows.
        """
        try:
            return Submission.from_json(self.submission_json)
        except (ValueError, TypeError) as error:
            raise OutboxError(
                f"The entry {self.key} of the outbox cannot be read ({error}). If a newer bluesky-prefect wrote it, "
                f"upgrade this one and retry it; else start the workflow anew: bluesky-prefect submit {self.run_uid}"
            ) from error

    @property
    def is_sendable(self) -> bool:
        """True if it can be sent, or sent again, as it is."""
        if self.state not in ("waiting", "dead") or self._readable is None:
            return False
        return not self._readable.undecided

    @property
    def is_message(self) -> bool:
        """True if it starts no flow run, but has people told that the run failed."""
        return is_message(self.deployment)

    @property
    def is_readable(self) -> bool:
        """True if this version knows what stands in the file; without that, only the fields above are known."""
        return self._readable is not None

    @property
    def workflow(self) -> str:
        """The workflow's name, or the deployment's where it is not known."""
        return self._readable.workflow if self._readable else self.deployment

    @property
    def scan_id(self) -> int | None:
        """The run's scan id, if it is known."""
        return self._readable.run.scan_id if self._readable else None

    @property
    def beamline(self) -> str | None:
        """The beamline that the run was taken at, if it is known."""
        return self._readable.beamline if self._readable else None

    @property
    def plan_name(self) -> str | None:
        """The name of the run's plan, if it is known."""
        return self._readable.run.plan_name if self._readable else None

    @property
    def _readable(self) -> Submission | None:
        try:
            return self.submission
        except OutboxError:
            return None


@dataclass(frozen=True)
class OutboxCounts:
    """Number of submissions in an outbox, by state."""

    waiting: int = 0
    sent: int = 0
    dead: int = 0
    declined: int = 0


def is_due(row: sqlite3.Row, now: float) -> bool:
    """Tell whether the wait after a failed attempt is over."""
    return row["not_before"] <= now or row["changed"] > now + CLOCK_SLACK_S


def holder(row: sqlite3.Row, now: float) -> str | None:
    """Return the process that has a lease on the submission; None if the lease is over or its holder is dead."""
    leased_until = row["leased_until"]
    if leased_until is None or leased_until <= now or row["changed"] > now + CLOCK_SLACK_S:
        return None
    return host_and_pid(row["leased_by"]) if may_be_alive(row["leased_by"]) else None


@lru_cache
def insertion(columns: tuple[str, ...]) -> str:
    """Return the statement that adds an entry; what is there under its key stays, unless it was declined before."""
    replaced = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "key")
    return (
        f"INSERT INTO entries ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608
        f"ON CONFLICT (key) DO UPDATE SET {replaced} WHERE entries.state = 'declined' AND excluded.state != 'declined'"
    )
