"""A fork server, as its worker sees it."""

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from bluesky_prefect.worker.forkserver._child_handle import ChildHandle
from bluesky_prefect.worker.forkserver._protocol import PACKET_BYTES

logger = logging.getLogger(f"prefect.{__name__}")

# Libraries that start threads when they are imported, and what keeps each from it: OpenBLAS (numpy), numexpr (which
# blosc2 has start them), the allocator inside pyarrow.
SINGLE_THREADED = {
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "NUMEXPR_MAX_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
# A fork takes milliseconds; on a machine that is busy beyond that, nothing is gained by more of them.
_FORK_TIMEOUT_S = 60.0
# How many forks may be asked for at once: more of them would not fit into the socket.
_FORKS_AT_ONCE = 32
# How long a fork server may take to end.
_CLOSE_TIMEOUT_S = 5.0


class ForkServerGone(Exception):
    """The fork server is dead, or its modules are not what is on disk any more."""


class ForkFailed(Exception):
    """The system has no memory, process or descriptor left for another flow run at this moment."""


class ForkServerHandle:
    """A fork server's process, as its worker sees it.

    Parameters
    ----------
    modules : sequence of str
        What it imports.
    environment : mapping
        What it is started with.

    Raises
    ------
    ForkFailed
        If the system refuses another process.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, self._process = _start(environment)
        self._numbers = itertools.count()
        self._asking = asyncio.Semaphore(_FORKS_AT_ONCE)
        # Forks that were asked for, each with our end of the child's socket.
        self._waiting: dict[int, tuple[asyncio.Future[ChildHandle], socket.socket]] = {}
        self._children: dict[int, ChildHandle] = {}
        self._abandoned_at_the_end: weakref.WeakSet[ChildHandle] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.retired = False
        self._socket.send(" ".join(modules).encode())
        self._loop.add_reader(self._socket, self._receive)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """True if its process has ended."""
        return self._process.returncode is not None

    async def ready(self) -> dict[str, Any]:
        """Wait until it has imported everything, and return how that went.

        Raises
        ------
        ForkServerGone
            If it died meanwhile.
        """
        return await asyncio.shield(self._ready)

    async def fork(self) -> ChildHandle:
        """Return a new child, which waits for its job.

        Raises
        ------
        ForkServerGone
            If it is dead, or a module has changed on disk; no child has been given a job then.
        ForkFailed
            If the system refuses another process.
        """
        await self.ready()
        async with self._asking:
            return await self._fork()

    async def _fork(self) -> ChildHandle:
        if self.retired:
            raise ForkServerGone
        number = next(self._numbers)
        forked: asyncio.Future[ChildHandle] = self._loop.create_future()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._waiting[number] = forked, ours
        try:
            with theirs:
                socket.send_fds(self._socket, [str(number).encode()], [theirs.fileno()])
            return await asyncio.wait_for(forked, _FORK_TIMEOUT_S)
        except TimeoutError as error:
            self.retire()
            self._process.kill()
            raise ForkServerGone(f"it did not fork within {_FORK_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise ForkServerGone from error
        finally:
            # A child without a job ends when its socket is closed.
            if self._waiting.pop(number, None):
                ours.close()

    def retire(self) -> None:
        """Fork no more; it ends with its last child."""
        if not self.retired:
            self.retired = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it at once; children that still run go on."""
        self._process.kill()

    async def close(self) -> None:
        """End it; children that still run go on."""
        self.retire()
        self._gone()
        for child in self._abandoned_at_the_end:
            child.abandon()
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, _CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        for task in self._tasks:
            task.cancel()

    def _receive(self) -> None:
        try:
            received = self._socket.recv(PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._gone()
            return
        message = json.loads(received)
        if "ready" in message:
            self._ready.set_result(message["ready"])
        elif "forked" in message:
            self._forked(message["forked"], message["pid"])
        elif "refused" in message:
            self._refused(message)
        elif child := self._children.pop(message["exited"], None):
            child.exited(message["code"])

    def _forked(self, number: int, pid: int) -> None:
        if number in self._waiting:
            forked, channel = self._waiting.pop(number)
            child = self._children[number] = ChildHandle(pid, channel)
            self._abandoned_at_the_end.add(child)
            forked.set_result(child)

    def _refused(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self._fail(message["refused"], ForkFailed(message["error"]))
            return
        changed = ", ".join(message["changed"])
        reason = f"changed on disk: {changed}" if changed else f"it has {message['threads']} threads"
        if not self.retired:
            logger.info("Starting a new fork server in place of %s: %s", self.pid, reason)
        self.retire()
        self._fail(message["refused"], ForkServerGone(reason))

    def _fail(self, number: int, error: Exception) -> None:
        if number in self._waiting and not self._waiting[number][0].done():
            self._waiting[number][0].set_exception(error)

    def _gone(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if not self.retired:
            logger.warning("The fork server (pid %s) is gone; flow runs under way go on.", self.pid)
        self.retired = True
        if not self._ready.done():
            self._ready.set_exception(ForkServerGone("it ended while it imported its modules"))
        for number in self._waiting:
            self._fail(number, ForkServerGone("it is dead"))
        for child in self._children.values():
            self._keep(child.outlive_the_server())
        self._children.clear()
        self._keep(asyncio.to_thread(self._process.wait))

    def _keep(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _start(environment: Mapping[str, str]) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """Start a fork server; return the worker's end of its socket, and its process."""
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise ForkFailed(str(error)) from error
    command = [sys.executable, "-P", "-m", "bluesky_prefect.worker.forkserver", str(theirs.fileno())]
    with theirs:
        try:
            process = subprocess.Popen(
                command,
                env={**environment, **SINGLE_THREADED},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Signals from a terminal are for the worker.
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise ForkFailed(str(error)) from error
    ours.setblocking(False)
    return ours, process
