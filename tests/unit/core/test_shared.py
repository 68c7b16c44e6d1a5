"""Several users of one state directory, each with a uid of their own: their runs are in one outbox."""

import json
import os
import signal
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bluesky_prefect.core import private_directory, rights_in, share_directory
from bluesky_prefect.core._private_files import Rights
from tests.services.account import GROUP, Account, shared_place

Place = tuple[Path, Account, Account]

_PUT = """
import logging, sys
from pathlib import Path
from bluesky_prefect import Outbox
from bluesky_prefect.core._submission import Submission

logging.basicConfig()
outbox = Outbox(Path(sys.argv[1]) / "outbox.sqlite")
for uid in sys.argv[2:]:
    outbox.put(Submission(f"{uid}:w", "w", "flow/one", uid))
    print(uid, flush=True)
"""
_WAIT = "\nimport signal\nsignal.pause()"
_TAKE = """
import sys
from pathlib import Path
from bluesky_prefect import Outbox

outbox = Outbox(Path(sys.argv[1]) / "outbox.sqlite")
while entry := outbox.take():
    outbox.mark_sent(entry.key, "id", "name")
    print(entry.run_uid)
outbox.close()
"""
# What a session does, without servers: metadata, a run that Tiled does not take, a submission.
_SESSION = """
import logging, os, sys
logging.basicConfig(format="%(levelname)s %(message)s")
from bluesky.plans import count
from bluesky_prefect.session import start_session
from ophyd.sim import det

session = start_session("my-workflow/local", tell=lambda _: None)
uid = session.run_engine(count([det]))[0]
print("RUN", uid, session.run_engine.md["scan_id"])
sys.stdout.flush()
os._exit(0)  # as killed: nothing is waited for, and SQLite's log stays behind
"""


@pytest.fixture(params=["2770", "0770"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with shared_place(int(request.param, 8)) as place:
        yield place


def _uids(state: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{state}/outbox.sqlite?mode=ro", uri=True)) as connection:
        return {uid for (uid,) in connection.execute("SELECT run_uid FROM entries")}


def _rights(path: Path) -> tuple[str, int]:
    status = path.stat()
    return oct(stat.S_IMODE(status.st_mode)), status.st_gid


def _session(account: Account, state: Path, umask: int = 0o022) -> tuple[str, str]:
    """Run a session with a scan as this user; return its output, and the run's uid."""
    variables = {"BLUESKY_PREFECT_STATE_DIRECTORY": str(state), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    output = account.run(_SESSION, umask=umask, **variables)
    [line] = [line for line in output.splitlines() if line.startswith("RUN")]
    return output, line.split()[1]


@pytest.mark.parametrize("umask", [0o077, 0o022], ids=oct)
def test_what_one_user_puts_another_sends_whatever_the_umask(place: Place, umask: int):
    state, ada, bob = place
    ada.run(_PUT, state, "a1", umask=umask)
    bob.run(_PUT, state, "b1", umask=umask)
    ada.run(_PUT, state, "a2", umask=umask)

    assert bob.run(_TAKE, state, umask=umask).split() == ["a1", "b1", "a2"]
    assert _rights(state / "outbox.sqlite") == ("0o660", GROUP)


@pytest.mark.parametrize("umask", [0o077, 0o022], ids=oct)
def test_the_log_that_a_killed_user_left_is_recovered_by_another(place: Place, umask: int):
    state, ada, bob = place
    for account, uid in ((ada, "a1"), (bob, "b1"), (ada, "a2")):
        process = account.popen(_PUT + _WAIT, state, uid, umask=umask)
        assert process.stdout.readline().split() == [uid]
        assert {_rights(path) for path in state.iterdir()} == {("0o660", GROUP)}
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert (state / "outbox.sqlite-wal").stat().st_size > 0

    assert bob.run(_TAKE, state, umask=umask).split() == ["a1", "b1", "a2"]


def test_two_users_put_at_the_same_time_and_each_sees_all(place: Place):
    state, ada, bob = place
    processes = [
        account.popen(_PUT, state, *(f"{name}{number}" for number in range(50)), umask=0o077)
        for account, name in ((ada, "a"), (bob, "b"))
    ]
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert len(_uids(state)) == 100
    assert len(ada.run(_TAKE, state).split()) == 100


def test_sessions_of_two_users_share_all_and_none_closes_it_again():
    with shared_place() as (state, ada, bob):
        said = [_session(account, state, umask=0o077) for account in (ada, bob, ada)]

        output = "\n".join(text for text, _ in said)
        assert "ERROR" not in output
        assert "WARNING" not in output
        assert _uids(state) == {uid for _, uid in said}
        assert {path.stem for path in (state / "journals").iterdir()} == {uid for _, uid in said}
        assert [line.split()[2] for line in output.splitlines() if line.startswith("RUN")] == ["1", "2", "3"]
        assert _rights(state) == _rights(state / "journals") == ("0o2770", GROUP)
        files = [path for path in state.rglob("*") if path.is_file()]
        assert {_rights(path) for path in files} == {("0o660", GROUP)}


def test_what_was_made_before_sharing_is_opened_by_its_owner_s_next_session():
    with shared_place(0o2770) as (state, ada, bob):
        os.chown(state, ada.uid, ada.uid)
        state.chmod(0o700)
        _session(ada, state)
        assert _rights(state / "outbox.sqlite") == ("0o600", ada.uid)
        os.chown(state, 0, GROUP)
        state.chmod(0o2770)

        said, uid = _session(bob, state)

        outbox = state / "outbox.sqlite"
        assert f"Run {uid} is kept in memory only" in said
        assert f"chmod g+rw {outbox}" in said
        assert f"user {ada.uid}" in said
        _session(ada, state)
        said, uid = _session(bob, state)
        assert "ERROR" not in said
        assert uid in _uids(state)
        assert (state / "journals" / f"{uid}.journal").exists()


def test_a_directory_of_another_user_is_refused_with_the_way_to_share_it():
    with shared_place(0o2770) as (state, ada, bob):
        os.chown(state, ada.uid, ada.uid)
        state.chmod(0o700)
        _session(ada, state)

        said, uid = _session(bob, state)

        assert f"Run {uid} is kept in memory only" in said
        assert f"chgrp -R GROUP {state}" in said
        assert _rights(state) == ("0o700", ada.uid)


def test_another_user_lists_the_outbox_and_retries(place: Place):
    state, ada, bob = place
    ada.run(_PUT, state, "a-run-of-ada", umask=0o077)

    code, listed = bob.command("outbox", "list", "--state-directory", state)
    assert code == 0, listed
    assert "a-run-of" in listed
    code, said = bob.command("outbox", "retry", "a-run-of-ada", "--state-directory", state)
    assert code == 0, said


def test_a_directory_that_is_made_here_is_its_owner_s_alone(tmp_path: Path):
    assert _rights(private_directory(tmp_path / "state"))[0] == "0o700"
    (tmp_path / "state").chmod(0o2775)  # open to all the world is shared with nobody
    assert _rights(private_directory(tmp_path / "state"))[0] == "0o700"


def test_a_directory_that_cannot_be_looked_at_is_shared_with_nobody(tmp_path: Path):
    (tmp_path / "file").touch()
    assert rights_in(tmp_path / "file" / "state") == rights_in(tmp_path / "none") == Rights()
    share_directory(tmp_path / "file" / "state", tmp_path / "file" / "state" / "runs")


@pytest.mark.parametrize(
    ("mode", "shared"),
    [(0o2770, True), (0o770, True), (0o3770, True), (0o2775, False), (0o750, False), (0o700, False)],
)
def test_a_directory_is_shared_if_its_group_may_write_and_others_may_nothing(tmp_path: Path, mode: int, shared: bool):
    tmp_path.chmod(mode)
    assert (rights_in(tmp_path).group is not None) is shared


def test_what_cannot_be_closed_is_told_once_however_often_it_is_opened():
    script = """
import logging, sys
from pathlib import Path
from bluesky_prefect import Outbox, Settings
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.core._submission import Submission
from bluesky_prefect.watch._prompt_messages import PromptMessages

settings = Settings(state_directory=Path(sys.argv[1]))
logging.basicConfig(format="TOLD %(levelname)s %(message)s", force=True)
Outbox(settings.outbox_path).put(Submission("key", "w", "flow/one", "uid"))
notices = PromptMessages(settings)
with PrefectApi(5) as api:
    for _ in range(2):
        notices.look(api)
"""
    with shared_place(0o777) as (state, ada, bob):
        ada.run(_PUT, state, "a1")
        (state / "outbox.sqlite").chmod(0o666)

        output = bob.run(script, state, PREFECT_API_URL="http://127.0.0.1:9/api")

        [told] = [line for line in output.splitlines() if "open to other users" in line]
        assert f"{state} is open to other users (mode 777)" in told


_GREETED = """
from bluesky_prefect.session import start_session
start_session("my-workflow/local", tell=lambda line: print("TOLD", line))
"""


def test_a_session_says_whose_directory_it_shares_unless_its_own_or_root_s():
    with shared_place() as (state, ada, bob):
        variables = {"BLUESKY_PREFECT_STATE_DIRECTORY": str(state), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
        os.chown(state, ada.uid, GROUP)
        state.chmod(0o2770)
        words = f"{state} is shared with group {GROUP}, owned by user {ada.uid}"
        assert words in bob.run(_GREETED, **variables)
        assert "shared with" not in ada.run(_GREETED, **variables)
        os.chown(state, 0, GROUP)
        state.chmod(0o2770)
        assert "shared with" not in bob.run(_GREETED, **variables)


def test_with_which_group_a_directory_is_shared_and_whose_it_is_status_tells(place: Place):
    state, ada, bob = place
    os.chown(state, ada.uid, GROUP)
    state.chmod(0o2770)
    for account in (ada, bob):
        _, said = account.command("status", "--state-directory", state)
        assert f"shared with group {GROUP}, owned by user {ada.uid}" in " ".join(said.split())
    _, said = bob.command("status", "--json", "--state-directory", state)
    assert json.loads(said)["shared"] == f"group {GROUP}, owned by user {ada.uid}"
    state.chmod(0o700)
    _, said = ada.command("status", "--state-directory", state)
    assert "shared with" not in said
