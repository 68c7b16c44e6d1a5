"""A lease is its holder's, also where host name and pid are those of a process in another container."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

from bluesky_prefect.core import Submission
from bluesky_prefect.outbox import Outbox
from bluesky_prefect.outbox._lease_holder import host_and_pid, may_be_alive, this_process
from tests.conftest import missing_service

# Processes of a new pid namespace count from 1; the host name stays.
CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc"]

PRELUDE = """
import os, sys, time
from pathlib import Path
from bluesky_prefect.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
"""
HOLD = PRELUDE + "print(outbox.take().run_uid, os.getpid(), flush=True); sys.stdin.readline()"
GIVE_BACK = PRELUDE + "outbox.take(); outbox.give_back('a:flow/one', 'not mine', 0); print(os.getpid())"


@pytest.fixture
def outbox(tmp_path):
    box = Outbox(tmp_path / "outbox.sqlite")
    box.put(Submission("a:flow/one", "flow/one", "flow/one", "a"))
    yield box
    box.close()


@pytest.fixture
def in_container(outbox):
    """Start Python in a pid namespace of its own."""
    if shutil.which("unshare") is None or subprocess.run([*CONTAINER, "true"], capture_output=True).returncode:
        missing_service("pid namespaces (unshare, as root)")
    started = []

    def start(code):
        command = [*CONTAINER, sys.executable, "-c", code, str(outbox.path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, **pipes, text=True))
        return started[-1]

    yield start
    for process in started:
        process.communicate("\n", timeout=30)


def test_a_lease_from_another_container_is_not_taken_for_that_of_a_dead_process(outbox, in_container):
    assert outbox.take().run_uid == "a"
    # There is no such pid in there.
    assert in_container(PRELUDE + "print(outbox.take())").stdout.readline() == "None\n"


def test_containers_alike_in_host_name_and_pid_keep_their_leases_apart(outbox, in_container):
    held = in_container(HOLD)
    assert held.stdout.readline().split() == ["a", "1"]
    assert in_container(GIVE_BACK).stdout.readline() == "1\n"
    [entry] = outbox.entries()
    assert (entry.held_by, entry.attempts) == (f"{socket.gethostname()}:1", 0)


def test_a_process_and_its_fork_are_two():
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(write, this_process().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    child = os.read(read, 1000).decode()
    os.close(read)
    os.close(write)
    assert child.split(":")[1] == str(pid)
    assert child.rpartition(":")[2] != this_process().rpartition(":")[2]
    assert not may_be_alive(child)


def test_who_had_this_pid_before_is_dead():
    assert may_be_alive(this_process())
    assert not may_be_alive(this_process()[:-2] + "zz")


@pytest.mark.parametrize(
    "name", ["beamline-1:12406", "elsewhere:1:2-3:4", "", "a:b:c:d:e", f"{socket.gethostname()}:1::x"]
)
def test_of_whom_nothing_is_known_may_be_alive(name):
    assert may_be_alive(name)


def test_a_person_is_told_host_and_pid():
    assert host_and_pid(this_process()) == f"{socket.gethostname()}:{os.getpid()}"
