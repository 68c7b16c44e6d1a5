"""Whatever is deleted, replaced or spoiled beside an open outbox, runs go on being durable."""

import logging
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bluesky_prefect.core import OutboxError, Submission, submission_key
from bluesky_prefect.outbox import Outbox
from bluesky_prefect.outbox import _database_files as database_files

COMPANIONS = ("-wal", "-shm")


def submission(uid: str) -> Submission:
    return Submission(submission_key(uid, "flow/one"), "flow/one", "flow/one", uid, {"scan_id": 1}, {"run_start": uid})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.sqlite"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    """Return the outbox of a session: both its connections are open."""
    with closing(Outbox(path)) as outbox:
        outbox.put(submission("first"))
        outbox.counts()
        yield outbox


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def runs(path: Path) -> set[str]:
    """Return the runs in a file, for who opens it without knowing of the past."""
    script = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]); "
        "print(*(uid for [uid] in connection.execute('SELECT run_uid FROM entries')))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("deleted", [COMPANIONS[:1], COMPANIONS[1:], COMPANIONS], ids="".join)
def test_a_log_deleted_while_it_is_open_loses_nothing(outbox: Outbox, path: Path, deleted: tuple[str, ...], caplog):
    for suffix in deleted:
        beside(path, suffix).unlink()
    outbox.put(submission("second"))
    assert outbox.counts().waiting == 2
    outbox.put(submission("third"))
    assert runs(path) == {"first", "second", "third"}
    assert "nothing is lost" in caplog.text
    assert {file.name.removeprefix(path.name) for file in path.parent.iterdir()} == {"", *COMPANIONS}
    assert {oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()} == {"0o600"}


@pytest.mark.parametrize("suffix", COMPANIONS)
def test_a_deleted_log_is_saved_although_somebody_has_looked_meanwhile(outbox: Outbox, path: Path, suffix: str):
    beside(path, suffix).unlink()
    look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM entries').fetchall()"
    subprocess.run([sys.executable, "-c", look, str(path)], capture_output=True)
    outbox.put(submission("second"))
    assert runs(path) == {"first", "second"}


PUT = """
import sys
from pathlib import Path
from bluesky_prefect.outbox import Outbox
from bluesky_prefect.core._submission import Submission
outbox = Outbox(Path(sys.argv[1]))
for line in sys.stdin:
    uid = line.strip()
    try:
        outbox.put(Submission(uid, "w", "flow/one", uid))
        outbox.counts()
    except Exception as error:
        print(error, flush=True)
    else:
        print(uid, flush=True)
"""


@pytest.mark.parametrize("suffix", COMPANIONS)
def test_what_sessions_put_while_a_log_is_deleted_again_and_again_is_all_there(path: Path, suffix: str):
    command = [sys.executable, "-c", PUT, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    sessions = [subprocess.Popen(command, **pipes) for _ in range(2)]

    def put(number: int, label: str) -> None:
        for session in sessions:
            session.stdin.write(f"{number}-{label}-{session.pid}\n")
            session.stdin.flush()

    def said() -> list[str]:
        return [session.stdout.readline().strip() for session in sessions]

    told = []
    for number in range(8):
        put(number, "quiet")
        told += said()
        beside(path, suffix).unlink(missing_ok=True)
        put(number, "at-once")
        told += said()
    for session in sessions:
        session.kill()
        session.wait()
        session.stdin.close()
        session.stdout.close()
    assert len(told) == 32
    with closing(Outbox(path)) as outbox:
        assert {entry.run_uid for entry in outbox.entries()} == set(told)


def test_a_log_that_cannot_be_saved_now_is_saved_later(outbox: Outbox, path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: Path) -> None:
        raise OSError("No space left on device")

    beside(path, "-wal").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(database_files, "private_file", full)
        for _ in range(2):
            with pytest.raises(OutboxError, match="cannot be saved: No space left"):
                outbox.put(submission("second"))
    outbox.put(submission("second"))
    assert runs(path) == {"first", "second"}


def test_a_writer_that_waits_while_the_file_is_replaced_uses_the_new_one(outbox: Outbox, path: Path):
    def replaced() -> None:
        with closing(sqlite3.connect(path.with_name("copy"))) as copy, closing(sqlite3.connect(path)) as connection:
            connection.backup(copy)
        path.with_name("copy").replace(path)
        for suffix in COMPANIONS:
            beside(path, suffix).unlink()

    connection = outbox._durable._connection
    # As its transaction begins: it was asked for the file before.
    connection.set_trace_callback(lambda text: replaced() if text == "BEGIN IMMEDIATE" else None)
    outbox.put(submission("second"))
    assert runs(path) == {"first", "second"}


def test_a_backup_put_in_the_place_of_an_open_outbox_is_not_mixed_with_its_log(outbox: Outbox, path: Path):
    backup = path.with_name("backup")
    with closing(Outbox(backup)) as other:
        other.put(submission("of the backup"))
    outbox.put(submission("too late"))
    outbox.put(submission("for the backup"))
    backup.rename(path)

    outbox.put(submission("second"))
    assert outbox.counts().waiting == 2
    outbox.put(submission("third"))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with closing(Outbox(path)) as other:
        assert {entry.run_uid for entry in other.entries()} == {"of the backup", "second", "third"}


def spoil(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def test_a_file_that_is_no_database_is_set_aside_and_a_new_one_begun(path: Path, caplog):
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"something else" * 100)
    with closing(Outbox(path)) as outbox:
        with pytest.raises(OutboxError, match=r"outbox\.sqlite.*not a database"):
            outbox.put(submission("a"))
        assert outbox.put(submission("a"))
    [aside] = path.parent.glob("outbox.sqlite-malformed-*")
    assert aside.read_bytes() == b"something else" * 100
    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert str(aside) in told
    assert "not a database" in told
    assert "bluesky-prefect reconcile" in told


def test_an_outbox_that_is_spoiled_while_it_is_open_is_set_aside_with_its_log(outbox: Outbox, path: Path):
    for number in range(100):
        outbox.put(submission(str(number)))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    spoil(path)
    with pytest.raises(OutboxError, match="malformed"):
        outbox.put(submission("second"))
    assert outbox.put(submission("second"))
    assert outbox.counts().waiting == 1
    outbox.put(submission("third"))
    assert runs(path) == {"second", "third"}
    assert any(path.parent.glob("outbox.sqlite-malformed-*"))


def test_of_several_who_meet_a_malformed_file_one_sets_it_aside(path: Path):
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"something else" * 100)
    first, second = Outbox(path), Outbox(path)
    with pytest.raises(OutboxError):
        first.counts()
    assert path.exists(), "who only looks changes nothing"
    with pytest.raises(OutboxError):
        first.put(submission("a"))
    first.put(submission("a"))
    database_files.set_aside_malformed(path)  # as the second, which met it at the same moment
    second.put(submission("b"))
    first.close()
    second.close()
    assert runs(path) == {"a", "b"}
    assert len(list(path.parent.glob("outbox.sqlite-malformed-*"))) == 1


def test_a_spoiled_file_that_is_mended_by_hand_meanwhile_stays(outbox: Outbox, path: Path):
    outbox.close()
    good = path.with_name("good")
    shutil.copyfile(path, good)
    path.write_bytes(b"something else" * 100)
    good.replace(path)
    database_files.set_aside_malformed(path)
    assert runs(path) == {"first"}


BACKUP = """
import sqlite3, sys
source, target = map(sqlite3.connect, sys.argv[1:])
source.backup(target)
"""


def test_a_backup_taken_while_a_session_has_the_outbox_open_sends_again_by_the_same_keys(outbox, path, tmp_path):
    backup = tmp_path / "backup.sqlite"
    subprocess.run([sys.executable, "-c", BACKUP, str(path), str(backup)], check=True)
    outbox.put(submission("second"))
    outbox.mark_sent(submission("first").key, "id", "name")
    with closing(Outbox(backup)) as restored:
        # Prefect finds the flow run of a key that it knows. The second is left to reconciliation.
        assert restored.take().key == submission("first").key
        assert restored.take() is None
