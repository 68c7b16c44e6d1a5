"""Processes that outlive the one that starts them, and are known again later."""

import contextlib
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from bluesky_prefect.core import StackError, private_file

# Every process that descends from a stack inherits this variable: it tells a process apart from another one that
# got the same pid later, also when the clock was set in between, and finds flow runs whose worker was killed.
MARK = "BLUESKY_PREFECT_STACK_MARK"

_FOREIGN = ("PREFECT_", "TILED_", "BLUESKY_PREFECT_")
_LOG_TAIL = 15
_MARKED_WITHIN_S = 1.0


class ManagedProcess(BaseModel):
    """A process of the stack, as remembered between sessions."""

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float
    mark: str
    log: Path
    port: int | None = None
    uid: int | None = None
    ready: bool = False

    def is_alive(self) -> bool:
        """Tell whether this very process still runs; another one under the same pid does not count."""
        return self.find() is not None

    def find(self) -> psutil.Process | None:
        """Return the process, or None if it is gone."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE or not self._is_same(process):
                return None
        except psutil.NoSuchProcess:
            return None
        return process

    def _is_same(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark
        except psutil.AccessDenied:
            # Not ours to read, hence most likely not ours; the time of creation has the last word.
            return abs(process.create_time() - self.created) < 1

    @property
    def is_ours(self) -> bool:
        """True if it runs, and is this user's: another operator of a shared state directory may have started it."""
        try:
            return psutil.Process(self.pid).uids().effective == os.geteuid()
        except psutil.Error:
            return False

    def variable(self, name: str) -> str | None:
        """Return an environment variable that it was started with, or None if it cannot be known."""
        try:
            return psutil.Process(self.pid).environ().get(name)
        except psutil.Error:
            return None

    def log_tail(self) -> str:
        """Return the last lines of its log, indented."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return "\n".join(f"    {line}" for line in lines[-_LOG_TAIL:]) or "    (empty)"


def start_process(
    command: list[str],
    environment: dict[str, str],
    *,
    directory: Path,
    log: Path,
    port: int | None,
    umask: int = -1,
    niceness: int = 0,
) -> ManagedProcess:
    """Start a process in a session of its own, with its output in a log file.

    The log of the previous start is kept beside it, with ``.1`` at the end.

    Raises
    ------
    StackError
        If the command cannot be executed.
    """
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    mark = secrets.token_hex(16)
    private_file(log)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    try:
        child = subprocess.Popen(
            command,
            env={**inherited_environment(), **environment, MARK: mark},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            umask=umask,
        )
    except OSError as error:
        raise StackError(f"Cannot start {command[0]}: {error}.") from error
    finally:
        os.close(descriptor)
    _be_nice(child.pid, niceness)
    _wait_until_marked(child, mark)
    # Should it end before this process does, somebody has to take note of it, or it stays as a zombie.
    threading.Thread(target=child.wait, name=f"reap-{child.pid}", daemon=True).start()
    try:
        created = psutil.Process(child.pid).create_time()
    except psutil.NoSuchProcess:
        created = time.time()
    return ManagedProcess(pid=child.pid, created=created, mark=mark, log=log, port=port, uid=os.geteuid())


def _wait_until_marked(child: subprocess.Popen[bytes], mark: str) -> None:
    """Return once the system shows the variables of a new process, which it does a moment after its start."""
    deadline = time.monotonic() + _MARKED_WITHIN_S
    while child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psutil.Error, OSError):
            if psutil.Process(child.pid).environ().get(MARK) == mark:
                return
        time.sleep(0.001)


def _be_nice(pid: int, niceness: int) -> None:
    """Lower the priority of a process that has just started, and so that of its children, if the system lets us."""
    if not niceness:
        return
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
    # Where Linux shares the processor between sessions first ("autogroup"), priorities count within a session only,
    # and the session has one of its own. It may be set ten times a second.
    for _ in range(3):
        try:
            Path(f"/proc/{pid}/autogroup").write_text(str(niceness))
        except BlockingIOError:
            time.sleep(0.15)
        except OSError:
            return
        else:
            return


def inherited_environment() -> dict[str, str]:
    """Return this process's environment without settings of other Prefect and Tiled installations.

    A ``PREFECT_API_KEY`` of Prefect Cloud or a ``TILED_CATALOG_URI`` of another server must not reach the stack,
    and its own addresses must not go through a proxy.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**environment, **without_proxy(environment)}


def without_proxy(environment: dict[str, str]) -> dict[str, str]:
    """Return the variables that keep loopback addresses away from a proxy, if one is set."""
    if not any(name.lower() in ("http_proxy", "all_proxy") for name in environment):
        return {}
    exempt = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [*filter(None, exempt.split(",")), "127.0.0.1", "localhost"]
    value = ",".join(dict.fromkeys(hosts))
    return {"no_proxy": value, "NO_PROXY": value}


def stop_processes(managed: Iterable[ManagedProcess], *, timeout_s: float = 10.0) -> None:
    """End processes and everything that descends from them: SIGTERM first, SIGKILL after `timeout_s`.

    Returns when all of them are gone.

    Raises
    ------
    StackError
        If one is another user's; nothing is stopped then.
    """
    managed = list(managed)
    first = [process for one in managed if (process := one.find())]
    for process in first:
        _require_ours(process)
    for process in first:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(first, timeout=timeout_s)
    # Whatever is left carries the mark, also what lost its parent.
    left = _marked({one.mark for one in managed})
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=timeout_s)


def _require_ours(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if os.geteuid() not in (0, process.uids().real):
            owner = process.username()
            raise StackError(
                f"The stack's process {process.pid} belongs to {owner}: only {owner} can stop it, or start it anew, "
                "with 'bluesky-prefect down' and 'up'. Sessions and 'status' of other users work with it."
            )


def _marked(marks: set[str]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) in marks:
                found.append(process)
    return found
