"""Ports and their owners, with real sockets."""

import os
import socket
import subprocess
import sys
import time

import pytest

from bluesky_prefect.core import StackError
from bluesky_prefect.stack import _ports as ports
from bluesky_prefect.stack._ports import bind_port, choose_port, hold_port, is_free
from tests.conftest import missing_service

WORDS = {"service": "Tiled server", "option": "--tiled-port", "variable": "BLUESKY_PREFECT_TILED_PORT"}


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def busy_port(request):
    with socket.socket() as server:
        server.bind((request.param, 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_busy_port_is_an_error_that_names_port_owner_and_option(busy_port):
    with pytest.raises(StackError) as caught:
        choose_port(busy_port, None, **WORDS)
    for word in (f"Port {busy_port}", "Tiled server", f"process {os.getpid()} (", *list(WORDS.values())[1:]):
        assert word in str(caught.value)


def test_a_free_port_is_taken_as_wanted():
    port = choose_port(0, None, **WORDS)
    assert choose_port(port, None, **WORDS) == port


def test_zero_takes_the_last_port_again_so_that_addresses_stay():
    last = choose_port(0, None, **WORDS)
    assert choose_port(0, last, **WORDS) == last


def test_zero_takes_another_port_if_the_last_one_is_busy(busy_port):
    port = choose_port(0, busy_port, **WORDS)
    assert port != busy_port
    assert is_free(port)


def test_a_port_whose_connections_have_just_ended_is_free():
    with bind_port(0) as server:
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first is left in TIME_WAIT
        client.close()
    assert is_free(port)


def test_a_port_that_ended_connections_of_another_server_keep_is_waited_for(monkeypatch):
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()
        client.close()
    waited, told = [], []
    # It would be a minute.
    monkeypatch.setattr(ports, "wait_until_free", lambda *asked: waited.append(asked))
    with pytest.raises(StackError):
        choose_port(port, None, report=told.append, **WORDS)
    assert waited == [(port, 65.0)]
    [line] = told
    for word in ("Tiled server", f"port {port}", "connections that have ended", "at most 65 s"):
        assert word in line


@pytest.mark.parametrize("options", [[], [socket.SO_REUSEADDR]])
def test_a_port_that_somebody_keeps_without_listening_is_refused_at_once(options):
    with socket.socket() as bound:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(("127.0.0.1", 0))
        port, began = bound.getsockname()[1], time.monotonic()
        with pytest.raises(StackError, match=rf"Port {port}.* in use by a process that does not listen there"):
            choose_port(port, None, **WORDS)
    assert time.monotonic() - began < 2.0


def test_a_port_that_an_open_session_of_this_user_s_holds_is_taken_at_once(held_port):
    began = time.monotonic()
    assert choose_port(held_port, held_port, **WORDS) == held_port
    assert time.monotonic() - began < 2.0


def test_whose_process_listens_is_told_also_where_it_is_another_user_s(busy_port):
    if os.geteuid() != 0:
        missing_service("root, to be another user")
    code = f"""
import os, socket
from bluesky_prefect.stack._ports import port_owner
os.setuid(65534)
print(port_owner({busy_port}))
"""
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout == "a process of root\n"


def test_the_last_starter_is_named_for_a_port_that_their_session_holds():
    with socket.socket() as bound:  # as that of a session of another user's, which shares it with nobody else
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(StackError) as caught:
            choose_port(port, port, last_user=54_001, **WORDS)
        for word in (f"Port {port}", "user 54001", "session", *WORDS.values()):
            assert word in str(caught.value)
        for last, last_user in ((port, os.geteuid()), (port + 1, 54_001), (port, None)):
            with pytest.raises(StackError, match="a process that does not listen there"):
                choose_port(port, last, last_user=last_user, **WORDS)


HOLD = """
import sys
from bluesky_prefect.stack._ports import hold_port
hold_port(int(sys.argv[1]))
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held_port():
    """A port that another process of this user holds, as a session does."""
    with bind_port(0) as probe:
        port = probe.getsockname()[1]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "holds\n"
    yield port
    holder.communicate()


def test_who_holds_a_port_keeps_no_server_of_this_user_s_from_it(held_port):
    assert is_free(held_port)
    with bind_port(held_port) as server:
        server.listen()
        socket.create_connection(("127.0.0.1", held_port)).close()
        assert not is_free(held_port)
        # Whoever comes next holds it as well, so that the server may die.
        hold_port(held_port)


@pytest.mark.parametrize("options", [[], [socket.SO_REUSEADDR], [socket.SO_REUSEADDR, socket.SO_REUSEPORT]])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_who_holds_a_port_keeps_other_users_from_it(held_port, host, options):
    if os.geteuid() != 0:
        missing_service("root, to be another user")
    code = f"""
import os, socket
os.setuid(65534)
server = socket.socket()
for option in {[int(option) for option in options]}:
    server.setsockopt(socket.SOL_SOCKET, option, 1)
server.bind(({host!r}, {held_port}))
"""
    tried = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert "Address already in use" in tried.stderr


def test_a_port_that_does_not_let_itself_be_held_is_an_error(busy_port):
    with pytest.raises(StackError, match=rf"Port {busy_port} is in use by process {os.getpid()}"):
        hold_port(busy_port)
