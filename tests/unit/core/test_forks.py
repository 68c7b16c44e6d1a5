"""A process that forks after it has subscribed: the child's runs are kept and sent, the parent's go on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bluesky_prefect import Outbox
from tests.services.prefect_stand_in import PrefectStandIn

# Each child has little to do; one that hangs is killed, and counts as lost.
_CHILDREN = 40
_COMMON = """
import multiprocessing, os, signal, sys, threading, time
from pathlib import Path

from bluesky_prefect import Outbox, PrefectCallback, Settings
from bluesky_prefect.core._submission import Submission

state = Path(sys.argv[1])

def tell(*words):  # at once, and as a whole: a buffer would be the child's too
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def in_child(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def busily(work):
    stop = threading.Event()
    def loop():
        number = 0
        while not stop.is_set():
            work(number)
            number += 1
            stop.wait(0.005)  # SQLite lets those who wait for a lock ask again, in no order
    thread = threading.Thread(target=loop)
    thread.start()
    return lambda: (stop.set(), thread.join())
"""
_PUTS = """
outbox = Outbox(state / "outbox.sqlite")

def put(uid):
    outbox.put(Submission(uid, "w", "flow/one", uid))

def put_and_take(number):
    put(f"parent-{number}")
    outbox.mark_sent(outbox.take().key, "id", "name")
    tell(f"parent-{number}")

stop = busily(put_and_take)
codes = [in_child(lambda: put(f"child-{number}")) for number in range(int(sys.argv[2]))]
stop()
tell(f"CODES {sorted(set(codes))}")
"""
_METADATA = """
from bluesky_prefect.session._metadata import PersistentMetadata

metadata = PersistentMetadata(state / "metadata.sqlite")
stop = busily(lambda number: tell(metadata.next_scan_id()))
codes = [in_child(lambda: tell(metadata.next_scan_id())) for number in range(int(sys.argv[2]))]
stop()
tell(f"CODES {sorted(set(codes))}")
"""
_RUNS = """
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det

callback = PrefectCallback("flow/one", settings=Settings(state_directory=state))

def run(label):
    run_engine = RunEngine()
    run_engine.subscribe(callback)
    tell(f"{label} {run_engine(count([det]))[0]}")

def settled(many):
    while callback.outbox.counts().sent < many:
        time.sleep(0.05)
"""
# With the parent stopped, nobody else could send it.
_CHILD_SENDS = """
run("parent")
settled(1)

def child():
    os.kill(os.getppid(), signal.SIGSTOP)
    try:
        run("child")
        settled(2)
    finally:
        os.kill(os.getppid(), signal.SIGCONT)

assert in_child(child) == 0
run("parent")
settled(3)
"""
# Such a child ends without atexit.
_MULTIPROCESSING = """
run("parent")
process = multiprocessing.get_context("fork").Process(target=run, args=("child",))
process.start()
process.join(60)
assert process.exitcode == 0
settled(2)
"""
_ENDS = """
run("parent")
if os.fork() == 0:
    run("child")
else:
    os.wait()
"""


@pytest.fixture
def stand_in() -> Iterator[PrefectStandIn]:
    with closing(PrefectStandIn().start()) as stand_in:
        yield stand_in


def _output(script: str, *arguments: object, **environment: str) -> list[str]:
    """Run a script in a process of its own, and return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _COMMON + script, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split("\n")


def _uids(state: Path) -> list[str]:
    with closing(Outbox(state / "outbox.sqlite")) as outbox:
        return [entry.run_uid for entry in outbox.entries(limit=100_000)]


def test_children_put_their_runs_whatever_the_parent_is_at(tmp_path: Path):
    lines = _output(_PUTS, tmp_path, _CHILDREN)

    assert "CODES [0]" in lines
    parents = [line for line in lines if line.startswith("parent-")]
    assert sorted(_uids(tmp_path)) == sorted([*parents, *(f"child-{number}" for number in range(_CHILDREN))])


def test_children_draw_scan_ids_of_their_own(tmp_path: Path):
    lines = _output(_METADATA, tmp_path, _CHILDREN)

    assert "CODES [0]" in lines
    drawn = [int(line) for line in lines if line.isdecimal()]
    assert sorted(drawn) == list(range(1, len(drawn) + 1))


@pytest.mark.parametrize("script", [_CHILD_SENDS, _MULTIPROCESSING, _ENDS], ids=["stopped", "multiprocessing", "ends"])
def test_what_a_child_runs_is_on_disk_and_sent_once(tmp_path: Path, stand_in: PrefectStandIn, script: str):
    lines = _output(_RUNS + script, tmp_path, PREFECT_API_URL=stand_in.url)

    runs = {line.split()[1] for line in lines if line.startswith(("parent ", "child "))}
    assert any(line.startswith("child ") for line in lines)
    assert {key.partition(":")[0] for key in stand_in.created} == runs
    assert set(_uids(tmp_path)) == runs
    assert stand_in.repeated == 0


def test_what_is_in_the_parent_s_memory_is_sent_by_the_parent_alone(tmp_path: Path):
    script = """
outbox = Outbox(None)
outbox.put(Submission("key", "w", "flow/one", "uid"))
tell(in_child(lambda: tell("in the child", outbox.counts().waiting)))
tell("in the parent", outbox.counts().waiting)
"""
    assert _output(script, tmp_path)[:3] == ["in the child 0", "0", "in the parent 1"]


def test_a_child_does_not_hold_the_file_of_its_parent_s_run(tmp_path: Path):
    script = """
from bluesky_prefect.journal import JournalDirectory, RunRecorder

recorder = RunRecorder(state)
recorder("start", {"uid": "0"})
begun, begin = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(begin, b".")
    signal.pause()
os.read(begun, 1)
tell(JournalDirectory(state).is_recorded("0"))
recorder("stop", {"run_start": "0"})
tell(JournalDirectory(state).is_recorded("0"))
os.kill(pid, signal.SIGKILL)
os.wait()
"""
    assert _output(script, tmp_path)[:2] == ["True", "False"]
