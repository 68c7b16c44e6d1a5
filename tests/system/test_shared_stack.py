"""A local stack that one operator has started, used by another who shares the state directory."""

import socket

import pytest

from bluesky_prefect.stack._info import StackState
from tests.services.account import shared_place

_SESSION = """
import time
from bluesky.plans import count
from bluesky_prefect.session import start_session
from ophyd.sim import det

session = start_session(tell=lambda line: print("TOLD", line))
uid = session.run_engine(count([det]))[0]
print("IN TILED", uid in session.raw)
outbox, deadline = session.prefect_callback.outbox, time.monotonic() + 60
while outbox.has_waiting() and time.monotonic() < deadline:
    time.sleep(0.1)
session.prefect_callback.close(30)
print("SENT", outbox.counts().sent)
"""


_OPEN_SESSION = """
import signal
from bluesky_prefect.stack._discovery import use_services
use_services(make_keys=True)
print("OPEN", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def shared():
    """The state directory, its two users, and the options with which the first of them has started the stack."""
    with shared_place() as (state, ada, bob):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ("--state-directory", state, "--tiled-port", 0, "--prefect-port", port)
        try:
            code, said = ada.command("up", *options)
            assert code == 0, said
            yield state, ada, bob, options
        finally:
            ada.command("down", "--state-directory", state)


def test_another_operator_works_with_the_stack_and_cannot_stop_it(shared):
    state, ada, bob, _ = shared
    here = ("--state-directory", state)
    code, said = bob.command("status", *here)
    assert code == 0, said
    output = bob.run(_SESSION, umask=0o077, BLUESKY_PREFECT_STATE_DIRECTORY=str(state))
    assert "IN TILED True" in output, output
    assert "SENT 1" in output, output
    code, said = bob.command("up", *here)
    assert (code, "already running" in said) == (0, True), said
    code, said = bob.command("down", *here)
    assert code == 1, said
    assert f"belongs to {ada.uid}" in said
    assert "Traceback" not in said
    assert all(process.is_alive() for process in StackState.load(state / "stack.json").processes.values())


def test_the_session_that_keeps_a_stack_s_port_is_named_with_the_remedy(shared):
    state, ada, bob, options = shared
    session = ada.popen(_OPEN_SESSION, BLUESKY_PREFECT_STATE_DIRECTORY=str(state))
    try:
        assert session.stdout.readline() == "OPEN\n"
        code, said = ada.command("down", "--state-directory", state)
        assert code == 0, said
        # Also what the servers made, so that the next one to start the stack may be anybody.
        closed = [path for path in state.rglob("*") if path.stat().st_mode & 0o060 != 0o060 and not path.is_symlink()]
        assert [path.relative_to(state) for path in closed] == []
        # It starts nothing, but the file of the stack is bob's from then on.
        code, said = bob.command("down", "--state-directory", state)
        assert code == 0, said
        code, said = bob.command("up", *options)
        said = " ".join(said.split())
        assert code == 1, said
        port = options[-1]
        for word in (f"Port {port}", f"session of user {ada.uid}", "--prefect-port", "BLUESKY_PREFECT_PREFECT_PORT"):
            assert word in said
    finally:
        session.kill()
        session.communicate()
