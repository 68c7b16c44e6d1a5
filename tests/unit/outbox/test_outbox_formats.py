"""Sessions of several versions on one outbox: what one wrote, the others lose not."""

import dataclasses
import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from bluesky_prefect.core import OutboxError, Submission, submission_key
from bluesky_prefect.outbox import Draft, Outbox, existing_outbox
from bluesky_prefect.outbox import _format_files as outbox_file
from bluesky_prefect.outbox._entry import FORMATS

RECORDED = sorted((Path(__file__).parents[2] / "data" / "outboxes").glob("format-*.sqlite"))
# After the leases and waits that stand in them.
LATER = 1_790_000_000.0 + 3600
NEWEST = len(FORMATS)


def submission(uid: str, deployment: str = "flow/one") -> Submission:
    return Submission(submission_key(uid, deployment), deployment, deployment, uid, {"scan_id": 1}, {"run_start": uid})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path / "state" / "outbox.sqlite"


@pytest.fixture
def old_path(path: Path) -> Path:
    """Return an outbox as version 1 left it."""
    shutil.copyfile(RECORDED[0], path)
    path.chmod(0o600)
    return path


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def set_version(path: Path, version: int) -> None:
    """Have the file look as one that another version of bluesky-prefect wrote."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


def runs(outbox: Outbox, **which) -> list[str]:
    return [entry.run_uid for entry in reversed(outbox.entries(**which))]


def drained(outbox: Outbox) -> list[str]:
    sent = []
    while entry := outbox.take():
        sent.append(entry.run_uid)
        outbox.mark_sent(entry.key, "id", "name")
    return sent


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.stem)
def test_what_an_older_version_left_is_sent_by_this_one(recorded, path):
    shutil.copyfile(recorded, path)
    with closing(Outbox(path, clock=lambda: LATER)) as outbox:
        assert {state: set(runs(outbox, state=state)) for state in ("waiting", "sent", "dead")} == {
            "waiting": {"delayed", "aside", "leased", "waiting", "again", "told"},
            "sent": {"sent"},
            "dead": {"refused", "undecided"},
        }
        [again] = outbox.entries(run_uid="again")
        assert (again.key, again.submission.overrides, again.submission.generation) == (
            "again#2:my-workflow/local",
            {"binning": 4},
            2,
        )
        assert again.submission.start["sample"] == {"name": "Fe₂O₃"}
        [aside] = outbox.entries(run_uid="aside")
        assert (aside.attempts, aside.reason, aside.api_url) == (1, "Prefect answers 500", None)
        assert outbox.retry("refused:refused/local")
        assert not outbox.retry("undecided:my-workflow/local")
        assert set(drained(outbox)) == {"delayed", "aside", "leased", "waiting", "again", "told", "refused"}
    assert version_of(path) == NEWEST


def test_an_outbox_made_anew_is_like_one_that_was_brought_up_to_date(old_path, tmp_path):
    def tables(path: Path) -> list[tuple[str, str]]:
        with closing(Outbox(path)) as outbox:
            outbox.counts()
        with closing(sqlite3.connect(path)) as connection:
            return sorted(connection.execute("SELECT name, sql FROM sqlite_master WHERE name LIKE 'entries%'"))

    assert tables(old_path) == tables(tmp_path / "new.sqlite")


def test_two_processes_that_open_an_older_outbox_at_once_lose_nothing(old_path):
    started = threading.Barrier(4)
    found: list[int] = []

    def open_it() -> None:
        with closing(Outbox(old_path)) as outbox:
            started.wait()
            found.append(len(outbox.entries()))

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [9] * 4


KILLED_WHILE_MIGRATING = """
import os, signal, sys
from pathlib import Path
from bluesky_prefect.outbox._sqlite_file import SQLiteFile
from bluesky_prefect.outbox import Outbox

migrate, left = SQLiteFile._migrate, int(sys.argv[2])

def kill_after(statement):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def migrate_and_die(self, connection):
    connection.set_trace_callback(kill_after)
    migrate(self, connection)
    connection.set_trace_callback(None)

SQLiteFile._migrate = migrate_and_die
Outbox(Path(sys.argv[1])).counts()
"""


@pytest.mark.parametrize("statements", range(1, 11))
def test_a_process_killed_while_it_brings_an_outbox_up_to_date_loses_nothing(old_path, statements):
    command = [sys.executable, "-c", KILLED_WHILE_MIGRATING, str(old_path), str(statements)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    with closing(Outbox(old_path, clock=lambda: LATER)) as outbox:
        assert len(outbox.entries()) == 9
        assert len(drained(outbox)) == 6


PUT_BY_VERSION_1 = (
    "INSERT INTO entries (key, run_uid, deployment, submission, state, reason, created, changed) "
    "VALUES (?, ?, ?, ?, 'waiting', NULL, ?, ?) ON CONFLICT (key) DO NOTHING"
)


def test_a_session_of_version_1_goes_on_after_its_outbox_was_changed(old_path):
    old = sqlite3.connect(old_path, isolation_level=None)
    old.row_factory = sqlite3.Row
    old.execute("SELECT * FROM entries").fetchall()
    with closing(Outbox(old_path, clock=lambda: LATER)) as outbox:
        outbox.put(submission("new"))
        one = submission("by-version-1")
        values = (one.key, one.run_uid, one.deployment, one.to_json(), LATER, LATER)
        old.execute(PUT_BY_VERSION_1, values)
        waiting = {row["run_uid"] for row in old.execute("SELECT * FROM entries WHERE state = 'waiting'")}
        assert {"new", "by-version-1"} <= waiting
        old.execute("UPDATE entries SET state = 'sent' WHERE run_uid = 'told' AND state != 'sent'")
        assert {"new", "by-version-1"} <= set(drained(outbox))
        assert set(runs(outbox, state="waiting")) == set()
    old.close()


@pytest.fixture
def newer_path(path: Path) -> Path:
    """Return an outbox with one submission, as a newer version left it."""
    with closing(Outbox(path)) as outbox:
        outbox.put(submission("of-the-newer-version"))
    set_version(path, 99)
    outbox_file._told.clear()
    return path


def test_runs_that_meet_an_outbox_of_a_newer_version_go_to_a_file_beside_it(newer_path, caplog):
    before = newer_path.read_bytes()
    with closing(Outbox(newer_path)) as outbox:
        assert outbox.put(submission("a"))
        assert outbox.path == newer_path.with_name(f"outbox.format-{NEWEST}.sqlite")
        assert drained(outbox) == ["a"]
    with closing(Outbox(newer_path)) as outbox:  # a session, its notices, a command: told once
        outbox.put(submission("b"))
    assert newer_path.read_bytes() == before
    [told] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert str(newer_path) in told.getMessage()
    assert str(outbox.path) in told.getMessage()


def test_an_open_outbox_that_a_newer_version_changes_loses_nothing(path):
    with closing(Outbox(path)) as outbox:
        outbox.counts()  # as at the start of a session: the connection that waits for the disk is opened at a stop
        set_version(path, 99)
        outbox.put(submission("a"))
        assert drained(outbox) == ["a"]


def test_what_lies_in_a_file_beside_it_that_cannot_be_used_either_is_an_error(newer_path):
    newer_path.with_name(f"outbox.format-{NEWEST}.sqlite").write_bytes(b"something else" * 100)
    with closing(Outbox(newer_path)) as outbox, pytest.raises(OutboxError, match="not a database"):
        outbox.put(submission("a"))


PUT_AND_BE_KILLED = """
import os, signal, sys
from pathlib import Path
from bluesky_prefect.outbox import Outbox
from bluesky_prefect.core._submission import Submission
outbox = Outbox(Path(sys.argv[1]))
for number in range(3):
    outbox.put(Submission(f"{number}:flow/one", "flow/one", "flow/one", str(number)))
outbox.take()
os.kill(os.getpid(), signal.SIGKILL)
"""


def put_beside(newer_path: Path) -> None:
    """Have a session of this version put runs 0 to 2 in, and be killed while it sends; then upgrade."""
    process = subprocess.run([sys.executable, "-c", PUT_AND_BE_KILLED, str(newer_path)], stderr=subprocess.DEVNULL)
    assert process.returncode == -signal.SIGKILL
    set_version(newer_path, NEWEST)


def test_what_was_put_beside_an_outbox_is_moved_to_it_once(newer_path):
    put_beside(newer_path)
    with closing(Outbox(newer_path)) as outbox:
        assert runs(outbox) == ["of-the-newer-version"]
        outbox.adopt_siblings()
        outbox.adopt_siblings()
        assert runs(outbox) == ["of-the-newer-version", "0", "1", "2"]
        assert sorted(drained(outbox)) == ["0", "1", "2", "of-the-newer-version"]
    with closing(Outbox(newer_path.with_name(f"outbox.format-{NEWEST}.sqlite"))) as beside:
        assert beside.entries() == []


def test_whoever_looks_into_an_outbox_sees_what_was_put_beside_it(newer_path):
    put_beside(newer_path)
    with existing_outbox(newer_path) as outbox:
        assert outbox.counts().waiting == 4


def test_what_was_put_beside_an_outbox_that_was_deleted_is_seen_all_the_same(newer_path):
    put_beside(newer_path)
    for file in newer_path.parent.glob("outbox.sqlite*"):
        file.unlink()
    with existing_outbox(newer_path) as outbox:
        assert outbox.counts().waiting == 3


def test_a_file_beside_the_outbox_keeps_the_format_of_its_session(path):
    beside = path.with_name("outbox.format-1.sqlite")
    shutil.copyfile(RECORDED[0], beside)
    with closing(Outbox(path, clock=lambda: LATER)) as outbox:
        outbox.adopt_siblings()
        assert len(outbox.entries()) == 9
        assert version_of(beside) == 1
        one = submission("later")
        with closing(sqlite3.connect(beside, isolation_level=None)) as old:
            old.execute(PUT_BY_VERSION_1, (one.key, one.run_uid, one.deployment, one.to_json(), LATER, LATER))
        outbox.adopt_siblings()
        assert "later" in runs(outbox)
        [sent] = outbox.entries(state="sent")
        assert (sent.run_uid, sent.flow_run_name) == ("sent", "scan-1-count-sent")


def test_a_file_beside_the_outbox_of_a_newer_version_is_left_to_newer_ones(path):
    beside = path.with_name(f"outbox.format-{NEWEST + 1}.sqlite")
    with closing(Outbox(beside)) as other:
        other.put(submission("a"))
    with closing(Outbox(path)) as outbox:
        outbox.adopt_siblings()
        assert outbox.entries() == []


def test_what_is_being_sent_from_a_file_beside_the_outbox_stays_there(path):
    now = LATER
    beside = path.with_name("outbox.format-1.sqlite")
    with closing(Outbox(beside, clock=lambda: now)) as live:
        live.put(submission("a"))
        live.put(submission("b"))
        live.take()
        with closing(Outbox(path, clock=lambda: now)) as outbox:
            set_version(beside, 1)
            outbox.adopt_siblings()
            assert runs(outbox) == ["b"]
            now += 200
            outbox.adopt_siblings()
            assert runs(outbox) == ["b", "a"]


KILLED_WHILE_ADOPTING = """
import os, signal, sys
from pathlib import Path
from bluesky_prefect.outbox._sqlite_file import SQLiteFile
from bluesky_prefect.outbox import Outbox

change, left = SQLiteFile.change, int(sys.argv[2])

class Dying:
    def __init__(self, *arguments):
        self.inner = change(*arguments)
    def __enter__(self):
        self.passed()
        return self.inner.__enter__()
    def __exit__(self, *error):
        self.passed()
        try:
            return self.inner.__exit__(*error)
        finally:
            self.passed()
    def passed(self):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

SQLiteFile.change = lambda self, trouble: Dying(self, trouble)
Outbox(Path(sys.argv[1])).adopt_siblings()
"""


@pytest.mark.parametrize("passed", range(6))
def test_a_process_killed_while_it_moves_submissions_loses_and_doubles_none(newer_path, passed):
    put_beside(newer_path)
    command = [sys.executable, "-c", KILLED_WHILE_ADOPTING, str(newer_path), str(passed)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    with closing(Outbox(newer_path)) as outbox:
        outbox.adopt_siblings()
        assert sorted(runs(outbox)) == ["0", "1", "2", "of-the-newer-version"]


def test_a_refusal_beside_the_outbox_does_not_replace_what_is_wanted_there(path):
    beside = path.with_name("outbox.format-2.sqlite")
    with closing(Outbox(beside)) as other:
        other.put_all([Draft(submission("a"), "declined"), Draft(submission("b"))])
    with closing(Outbox(path)) as outbox:
        outbox.put_all([Draft(submission("a")), Draft(submission("b"), "declined")])
        outbox.adopt_siblings()
        assert sorted(drained(outbox)) == ["a", "b"]


def test_every_field_of_a_submission_survives_being_moved(path):
    full = dataclasses.replace(submission("a"), parameters={"x": 1}, overrides={"y": 2}, generation=3, notify=("n",))
    with closing(Outbox(path.with_name("outbox.format-2.sqlite"))) as other:
        other.put(full, api_url="http://a.example/api")
    with closing(Outbox(path)) as outbox:
        outbox.adopt_siblings()
        [entry] = outbox.entries()
        assert (entry.submission, entry.api_url) == (full, "http://a.example/api")
