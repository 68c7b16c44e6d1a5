"""Detached processes: known again, and stopped with all that descends from them."""

import os
import signal
import sys
import time

import psutil
import pytest

from bluesky_prefect.core import StackError
from bluesky_prefect.stack import without_proxy
from bluesky_prefect.stack._process import MARK, inherited_environment, start_process, stop_processes

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
# A child in a session of its own, as Prefect starts flow runs; what it prints would come before or after.
PARENT = (
    "import subprocess, sys, time; "
    "options = dict(start_new_session=True, stdout=subprocess.DEVNULL); "
    f"print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}], **options).pid, flush=True); "
    "time.sleep(600)"
)


@pytest.fixture
def start(tmp_path):
    started = []

    def run(code, **environment):
        log = tmp_path / f"{len(started)}.log"
        process = start_process([sys.executable, "-c", code], environment, directory=tmp_path, log=log, port=None)
        started.append(process)
        return process

    yield run
    stop_processes(started, timeout_s=1)


def wait_for(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def first_line(process):
    wait_for(lambda: "\n" in process.log.read_text())
    return process.log.read_text().splitlines()[0]


def test_a_process_has_a_session_of_its_own_and_nothing_to_read(start):
    process = start("import os, sys; print(os.getsid(0) == os.getpid(), sys.stdin.read() == '')")
    assert first_line(process) == "True True"


def test_a_process_is_known_again(start):
    process = start(SLEEP)
    assert type(process).model_validate_json(process.model_dump_json()).is_alive()


def test_a_process_is_known_as_soon_as_it_is_there(start):
    # Linux shows the variables of a new process a moment late.
    assert all(start(SLEEP).is_alive() for _ in range(40))


def test_a_pid_that_went_to_another_process_is_not_ours(start):
    process = start(SLEEP)
    impostor = process.model_copy(update={"mark": "0" * 32})
    assert not impostor.is_alive()
    stop_processes([impostor], timeout_s=1)
    assert process.is_alive()


def test_a_child_that_was_killed_counts_as_gone_and_is_no_zombie(start):
    process = start(SLEEP)
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not process.is_alive())
    wait_for(lambda: not psutil.pid_exists(process.pid))


def test_stop_ends_a_process_that_ignores_sigterm(start):
    process = start(STUBBORN)
    first_line(process)
    stop_processes([process], timeout_s=0.3)
    assert not process.is_alive()


def test_stop_ends_descendants_in_other_sessions(start):
    process = start(PARENT)
    child = int(first_line(process))
    stop_processes([process], timeout_s=1)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_stop_ends_descendants_whose_parent_was_killed_before(start):
    process = start(PARENT)
    child = int(first_line(process))
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not process.is_alive())
    stop_processes([process], timeout_s=1)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_the_log_of_the_last_start_is_kept_beside_the_new_one(tmp_path):
    for word in ("first", "second"):
        command = [sys.executable, "-c", f"print('{word}')"]
        process = start_process(command, {}, directory=tmp_path, log=tmp_path / "a.log", port=None)
        assert first_line(process) == word
    assert (tmp_path / "a.log.1").read_text() == "first\n"
    assert process.log_tail() == "    second"


def test_a_command_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(StackError, match="no-such-command"):
        start_process(["/no-such-command"], {}, directory=tmp_path, log=tmp_path / "a.log", port=None)


def test_settings_of_other_installations_do_not_reach_the_stack(monkeypatch):
    for name in ("PREFECT_API_KEY", "TILED_CATALOG_URI", "BLUESKY_PREFECT_TILED_URI", MARK):
        monkeypatch.setenv(name, "of another one")
    monkeypatch.setenv("LANG", "C.UTF-8")
    assert "of another one" not in inherited_environment().values()
    assert inherited_environment()["LANG"] == "C.UTF-8"


def test_a_nice_process_and_its_children_have_a_lower_priority(tmp_path):
    code = "import os; print(os.nice(0), os.popen('nice').read(), flush=True)"
    command = [sys.executable, "-c", "import sys; sys.stdin.read(); " + code]
    process = start_process(command, {}, directory=tmp_path, log=tmp_path / "a.log", port=None, niceness=3)
    lower = min(os.nice(0) + 3, 19)
    assert first_line(process).split() == [str(lower), str(lower)]


def test_a_proxy_is_kept_away_from_loopback_addresses():
    environment = {"HTTP_PROXY": "http://proxy:3128", "no_proxy": "example.org"}
    assert without_proxy(environment)["no_proxy"] == "example.org,127.0.0.1,localhost"
    assert without_proxy({}) == {}


def test_what_a_process_was_started_with_can_be_read_while_it_runs(start):
    process = start(SLEEP, TILED_API_KEY="a key")
    assert process.variable("TILED_API_KEY") == "a key"
    assert process.variable("NO_SUCH_NAME") is None
    stop_processes([process], timeout_s=1)
    assert process.variable("TILED_API_KEY") is None
