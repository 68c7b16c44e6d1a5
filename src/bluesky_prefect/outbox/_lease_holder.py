"""The process that holds a lease: its name, and whether it may still run."""

import os
import secrets
import socket
from functools import lru_cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> str:
    """Return the name of this process, which no other process ever has, in whichever container it runs."""
    return _name(os.getpid(), _pids())


def may_be_alive(holder: str) -> bool:
    """Return False if the process of this name has certainly ended.

    Pids say that only among processes that count them alike; one of another machine or container may run.
    """
    if holder == this_process():
        return True
    try:
        host, pid, pids, _ = holder.split(":")
        if (host, pids) != (socket.gethostname(), _pids()) or not pids:
            return True
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True
    return int(pid) != os.getpid()  # else this process has the pid now


def host_and_pid(holder: str) -> str:
    """Return what a person needs of a holder's name: ``host:pid``."""
    return ":".join(holder.split(":")[:2])


@lru_cache(maxsize=1)
def _name(pid: int, pids: str) -> str:
    return f"{socket.gethostname()}:{pid}:{pids}:{secrets.token_hex(4)}"


def _pids() -> str:
    """Return the boot and the pid namespace, which processes share that count pids alike; empty where not known."""
    try:
        return f"{_boot()}-{_PID_NAMESPACE.readlink().name.strip('pid:[]')}"
    except OSError:
        return ""


@lru_cache(maxsize=1)
def _boot() -> str:
    return _BOOT_ID.read_text()[:8]
