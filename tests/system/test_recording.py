"""A session that records, the courier beside it, and what its user sees."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bluesky_prefect import Settings
from bluesky_prefect.courier import running_courier
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.stack import LocalStack, StackInfo
from tests.services.couriers import courier_pid
from tests.services.forked import run_command
from tests.services.prefect_process import wait_until

_SESSION = Path(__file__).with_name("recording_session.py")


class Session:
    """The other end of recording_session.py."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_SESSION)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.told: list[str] = []
        self.facts = self._answer()

    def do(self, what: str) -> dict[str, Any]:
        """Have it done, and return what came of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> str:
        """End it as a script ends, and return what it said last."""
        said, _ = self._process.communicate("", timeout=60)
        return said

    def kill(self) -> None:
        self._process.kill()
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                end.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
            self.told.append(line.rstrip())
        raise AssertionError("\n".join(self.told))


@pytest.fixture
def open_session() -> Iterator[Callable[[dict[str, str]], Session]]:
    opened: list[Session] = []

    def open_one(environment: dict[str, str]) -> Session:
        opened.append(Session(environment))
        return opened[-1]

    yield open_one
    for session in opened:
        session.kill()


@pytest.fixture
def session(stack: StackInfo, open_session: Callable[[dict[str, str]], Session]) -> Session:
    return open_session(stack.environment())


def test_a_session_records_and_imports_neither_prefect_nor_what_writes_to_tiled(session, stack):
    assert session.do("scan")["points"] == 11
    assert session.facts["heavy"] == []
    assert session.do("heavy")["heavy"] == []
    session.do("last")  # which imports Tiled's client
    session.do("scan")
    found = session.do("last")
    assert found["waited_s"] < 15
    assert (found["exit_status"], found["rows"]) == ("success", 11)
    assert found["scan_id"] == session.do("scan id")["scan_id"]


def test_a_scan_does_not_wait_for_a_tiled_that_does_not_answer(session, stack, stack_settings):
    tiled = psutil.Process(LocalStack(stack_settings).processes()["tiled"].pid)
    tiled.suspend()
    try:
        scans = [session.do("scan") for _ in range(2)]
        waiting = {one.run_uid for one in JournalDirectory(stack_settings.journals_path).waiting()}
    finally:
        tiled.resume()
    assert [scan["points"] for scan in scans] == [11, 11]
    assert waiting >= {scan["uid"] for scan in scans}
    assert session.do("last")["exit_status"] == "success"


def test_what_a_run_starts_comes_of_it_beside_a_courier(session, stack_settings):
    uid = session.do("scan")["uid"]

    def completed() -> bool:
        listed = json.loads(run_command("flows", "--json", env={**os.environ, **session_environment(session)}).stdout)
        return any(one["run_uid"] == uid and one["state"] == "Completed" for one in listed["flow_runs"])

    def session_environment(session: Session) -> dict[str, str]:
        return session.do("environment")["environment"]

    wait_until(completed, 60)


def test_a_user_who_asks_for_the_run_just_taken_is_told_why_it_takes_long(session, stack):
    courier = psutil.Process(courier_pid(stack.state_directory))
    courier.suspend()
    try:
        session.do("scan")
        found = session.do("last within 3.5")
    finally:
        courier.resume()
    assert found["scan_id"] is None or found["scan_id"] != session.do("scan id")["scan_id"]
    assert any(line.startswith("Waiting until Tiled has run") for line in session.told)
    assert any("is not in Tiled yet, after 3.5 s" in line for line in session.told)
    assert session.do("last")["scan_id"] == session.do("scan id")["scan_id"]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a session without any server."""
    yield {
        "BLUESKY_PREFECT_STATE_DIRECTORY": str(tmp_path / "state"),
        "BLUESKY_PREFECT_START_COURIER": "true",
        "PREFECT_API_URL": "http://127.0.0.1:1/api",
    }
    LocalStack(Settings(state_directory=tmp_path / "state")).down()


def test_a_session_that_finds_no_courier_starts_one_that_outlives_it_and_is_replaced(alone, open_session, tmp_path):
    settings = Settings(state_directory=tmp_path / "state")
    session = open_session(alone)
    [greeting] = [line for line in session.told if line.startswith("Started a courier (pid ")]
    assert "until 'bluesky-prefect down'" in greeting
    wait_until(lambda: running_courier(settings) is not None, 30)
    first = courier_pid(settings.state_directory)
    assert f"(pid {first}," in greeting
    uid = session.do("scan")["uid"]
    os.kill(first, signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(first).wait(10)
    wait_until(lambda: running_courier(settings) is not None, 60)
    second = courier_pid(settings.state_directory)
    assert second != first

    said = session.end()

    assert (
        f"Still on the way to Tiled: 1 run. The courier ({running_courier(settings).process}) will deliver it." in said
    )
    status = run_command("status", "--state-directory", str(settings.state_directory), env=os.environ)
    assert "1 run on the way to Tiled" in status.stdout
    assert re.search(rf"Courier +up +{second}\b", status.stdout)
    assert psutil.pid_exists(second)
    down = run_command("down", "--state-directory", str(settings.state_directory), env=os.environ)
    assert "Courier: stopped" in down.stderr
    assert running_courier(settings) is None
    assert [one.run_uid for one in JournalDirectory(settings.journals_path).waiting()] == [uid]


def test_a_courier_that_is_told_to_end_does_so_and_one_whose_directory_is_gone_too(tmp_path):
    def start(state: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bluesky_prefect", "courier", "--state-directory", str(state)]
        courier = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: running_courier(Settings(state_directory=state)) is not None, 30)
        return courier

    told, orphan = start(tmp_path / "told"), start(tmp_path / "orphan")
    again = run_command("courier", "--state-directory", str(tmp_path / "told"), env=os.environ)
    assert again.returncode == 1
    assert f":{told.pid}) is at work" in again.stderr
    wait_until((tmp_path / "orphan" / "outbox.sqlite").exists)  # it has begun, and makes no file any more
    shutil.rmtree((tmp_path / "orphan").rename(tmp_path / "gone"))
    time.sleep(0.5)
    told.send_signal(signal.SIGTERM)
    for courier in (told, orphan):
        _, said = courier.communicate(timeout=30)
        assert courier.returncode == 0, said
        assert "The courier ends" in said
