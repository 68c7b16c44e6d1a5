"""A process of another user at the stack's ports gets neither runs nor keys, whatever of the stack has died."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from bluesky_prefect.stack import LocalStack
from tests.services.another_user import as_nobody, said_by
from tests.services.prefect_process import wait_until
from tests.system.test_doors import Session

# Listens in each way that there is, and prints what it is sent, for some seconds or until it is told that this is all.
_LISTEN = """
def listen(host, options):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family)
    for option in options:
        server.setsockopt(socket.SOL_SOCKET, option, 1)
    server.bind((host, int(sys.argv[1])))
    server.listen()
    return server

ways = [(host, options) for host in ("127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::")
        for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT))]
for way in ways:
    try:
        server = listen(*way)
        break
    except OSError:
        continue
else:
    sys.exit("DENIED")
print("LISTENING", flush=True)
end = time.monotonic() + float(sys.argv[2])
while (left := end - time.monotonic()) > 0:
    server.settimeout(left)
    try:
        client, _ = server.accept()
    except TimeoutError:
        break
    client.settimeout(2)
    try:
        if (sent := client.recv(65536)) == b"that is all":
            break
        print(sent, flush=True)
        client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\nConnection: close\\r\\n\\r\\ntrue")
        client.close()
    except OSError as error:
        print(error)
"""


@contextmanager
def session(state_directory, log, **environment):
    opened = Session("look", log, {"BLUESKY_PREFECT_STATE_DIRECTORY": str(state_directory), **environment})
    try:
        assert opened.said
        yield opened
    finally:
        opened.process.kill()
        opened.process.communicate()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_session_sends_nothing_to_who_listens_where_the_stack_will_be(tmp_path):
    port = free_port()
    foreign = as_nobody(_LISTEN, str(port), "120")
    assert foreign.stdout.readline() == "LISTENING\n"
    with session(tmp_path / "state", tmp_path / "log", BLUESKY_PREFECT_PREFECT_PORT=str(port)) as opened:
        assert f"Port {port} is in use by" in opened.greeting
        # Now the forwarder has looked for Prefect.
        wait_until(lambda: "Runs will wait in the outbox" in opened.log.read_text())
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"that is all")
        assert said_by(foreign) == ""


def test_nobody_else_can_listen_where_the_stack_will_be_of_a_session(tmp_path):
    port = free_port()
    with session(tmp_path / "state", tmp_path / "log", BLUESKY_PREFECT_PREFECT_PORT=str(port)):
        assert denied(port)


def denied(port):
    foreign = as_nobody(_LISTEN, str(port), "1")
    said, errors = foreign.communicate()
    return (said, errors) == ("", "DENIED\n")


@pytest.mark.timeout(400)
def test_ports_of_dead_servers_stay_their_user_s_while_a_session_lives(own_stack, tmp_path):
    local: LocalStack = own_stack()
    # In another process, as people do: this one is to hold nothing.
    up(local)
    processes = local.processes()
    ports = [processes[name].port for name in ("tiled", "prefect")]
    for name in ("tiled", "prefect"):
        os.killpg(processes[name].pid, signal.SIGKILL)
    wait_until(lambda: local.processes().keys() == {"worker", "courier"})
    assert all(denied(port) for port in ports)
    up(local)
    with session(local.paths.root, tmp_path / "log"):
        for process in local.processes().values():
            os.killpg(process.pid, signal.SIGKILL)
        wait_until(lambda: not local.processes())
        assert all(denied(port) for port in ports)
        # Nobody listens: clients are refused at once, and do not wait.
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{ports[0]}")


def up(local):
    arguments = ["up", "--state-directory", str(local.paths.root), "--tiled-port", "0", "--prefect-port", "0"]
    subprocess.run([sys.executable, "-m", "bluesky_prefect", *arguments], capture_output=True, check=True)
