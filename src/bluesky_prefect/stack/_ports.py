"""Ports of this machine: which are free, who holds those that are not, and how nobody else gets them."""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bluesky_prefect.core import StackError, user_name

HOST = "127.0.0.1"
# Linux forgets an ended connection after 60 s.
_LINGER_S = 65.0
_CONNECT_TIMEOUT_S = 1.0
# As Linux writes it in /proc/net/tcp.
_LISTENS = "0A"
_UNKNOWN = "a process that does not listen there"

# Descriptors of sockets: nobody closes them but the end of the process.
_held: dict[int, int] = {}


def bind_port(port: int) -> socket.socket:
    """Return a socket that is bound to a port of the loopback interface, 0 for any free one.

    Linux lets processes of one user, and of no other, share a port that all of them bound like this; connections go to
    the one that listens. Raises `OSError` if another user's process, or one that does not share, has the port.
    """
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((HOST, port))
    except OSError:
        bound.close()
        raise
    return bound


def hold_port(port: int) -> None:
    """Keep other users of the machine from listening on a port for as long as this process lives.

    The clients of a server send their secret to its port again and again. When the server has died, whoever listens
    there next is sent it: so each process that has a secret holds the port. Raises `StackError` if it cannot be held.
    """
    if port in _held:
        return
    try:
        _held[port] = bind_port(port).detach()
    except OSError as error:
        raise StackError(f"Port {port} is in use by {port_owner(port)}.") from error


def choose_port(
    wanted: int,
    last: int | None,
    *,
    service: str,
    option: str,
    variable: str,
    last_user: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> int:
    """Return the port to listen on: the wanted one, or for 0 the last one if free, else any free one.

    The service, and the option and the variable that set its port, are for messages. `last_user` is the number of the
    user whose server it was. `report` is told in one line what is waited for, and how long at most.

    Raises
    ------
    StackError
        If the wanted port is held by somebody; says by whom if the system tells.
    """
    if wanted == 0:
        return last if last and is_free(last) else _any_free()
    if _lingers(wanted):
        report(f"{service}: waiting for port {wanted}, kept by connections that have ended (at most {_LINGER_S:.0f} s)")
        wait_until_free(wanted, _LINGER_S)
    if not is_free(wanted):
        owner, remedy = port_owner(wanted), "Stop that"
        if owner == _UNKNOWN and wanted == last and last_user not in (None, os.geteuid()):
            # As processes of one user do, it shares the port with no other user.
            owner = f"what seems to be an open session of {user_name(last_user)}, who started it last"
            remedy = "Have that closed"
        raise StackError(
            f"Port {wanted}, wanted for the {service}, is in use by {owner}. "
            f"{remedy}, or choose another port with {option} or {variable} (0 takes any free one)."
        )
    return wanted


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback interface, and nobody else."""
    try:
        bind_port(port).close()
    except OSError:
        return False
    return not _listens(port)


def wait_until_free(port: int, timeout_s: float) -> None:
    """Return when a port is free, or after `timeout_s`.

    A killed process counts as gone a moment before the last of its threads lets go of its sockets.
    """
    deadline = time.monotonic() + timeout_s
    while not is_free(port) and time.monotonic() < deadline:
        time.sleep(0.05)


def port_owner(port: int) -> str:
    """Return who listens on a port, in words."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            listening = connection.status == psutil.CONN_LISTEN
            if listening and connection.laddr and connection.laddr.port == port and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    for state, uid in _sockets(port):
        if state == _LISTENS:
            return f"a process of {user_name(uid)}"
    return _UNKNOWN


def _sockets(port: int) -> Iterator[tuple[str, int]]:
    """Give state and user of what this machine listens with, or is connected with, on a port.

    The system tells nobody of those that are bound only.
    """
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", name).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[3], int(fields[7])


def _listens(port: int) -> bool:
    """Tell whether a server of this user's listens there, with which a second one would share the connections."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(_CONNECT_TIMEOUT_S)
        return client.connect_ex((HOST, port)) != errno.ECONNREFUSED


def _lingers(port: int) -> bool:
    """Tell whether nothing but connections that have ended keeps a server from a port.

    Those of the stack's own servers do not; those of a server that did not share its port do for a minute.
    """
    if is_free(port) or _listens(port) or not any(_sockets(port)):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _any_free() -> int:
    with bind_port(0) as probe:
        return probe.getsockname()[1]
