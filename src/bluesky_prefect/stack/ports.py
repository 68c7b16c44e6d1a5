"""Ports of this machine: which are free, and who holds those that are not."""

import contextlib
import socket
import time

import psutil

from bluesky_prefect.exceptions import StackError

HOST = "127.0.0.1"


def choose_port(wanted: int, last: int | None, *, service: str, option: str, variable: str) -> int:
    """Return the port to listen on: the wanted one, or for 0 the last one if free, else any free one.

    Raises
    ------
    StackError
        If the wanted port is held by somebody; says by whom if the system tells.
    """
    if wanted == 0:
        return last if last and is_free(last) else _any_free()
    if not is_free(wanted):
        raise StackError(
            f"Port {wanted}, wanted for the {service}, is in use by {_owner(wanted)}. "
            f"Stop that, or choose another port with {option} or {variable} (0 takes any free one)."
        )
    return wanted


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def wait_until_free(port: int, timeout_s: float) -> None:
    """Return when a port is free, or after `timeout_s`.

    A killed process counts as gone a moment before the last of its threads lets go of its sockets.
    """
    deadline = time.monotonic() + timeout_s
    while not is_free(port) and time.monotonic() < deadline:
        time.sleep(0.05)


def _any_free() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _owner(port: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            listening = connection.status == psutil.CONN_LISTEN
            if listening and connection.laddr and connection.laddr.port == port and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "a process of another user"
