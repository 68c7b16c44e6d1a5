"""A fork server, as its worker sees it."""

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import sys
from collections import deque
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

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ForkServerGone(Exception):
    """The fork server is dead, or its modules are not what is on disk any more."""


class ForkFailed(Exception):
    """The system has no memory, process or descriptor left for another flow run at this moment."""


class ForkServerHandle:
    """A fork server's process, as its worker sees it; `ForkFailed` is raised if the system refuses another process.

    Parameters
    ----------
    modules : sequence of str
        What it imports.
    environment : mapping
        What it is started with.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            self._socket, self._process = _start(environment)
        except OSError as error:
            raise ForkFailed(str(error)) from error
        # Forks that were asked for, in the order in which they are answered; and what came of them.
        self._asked: deque[tuple[asyncio.Future[ChildHandle], _Streams]] = deque()
        self._asking = asyncio.Semaphore(_FORKS_AT_ONCE)
        self._children: dict[int, ChildHandle] = {}
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
        """Wait until it has imported everything, and return how that went; or raise `ForkServerGone`."""
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
        async with self._asking:
            try:
                ours, theirs = socket.socketpair()
            except OSError as error:
                raise ForkFailed(str(error)) from error
            with theirs:
                streams = await asyncio.open_connection(sock=ours)
                forked: asyncio.Future[ChildHandle] = self._loop.create_future()
                try:
                    socket.send_fds(self._socket, [b"fork"], [theirs.fileno()])
                    self._asked.append((forked, streams))
                    return await asyncio.wait_for(forked, _FORK_TIMEOUT_S)
                except BaseException as error:
                    # A child without a job ends when its socket is closed.
                    streams[1].transport.abort()
                    if isinstance(error, TimeoutError):
                        self.retire()
                        self._process.kill()
                    if isinstance(error, OSError):  # which a time-out is, too
                        raise ForkServerGone(f"it does not fork: {error!r}") from error
                    raise

    def retire(self) -> None:
        """Fork no more; it ends with its last child, or at once if it has none because it still imports."""
        if not self.retired:
            self.retired = True
            if not self._ready.done():
                self._process.kill()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """End it; children that still run go on."""
        self.retire()
        self._gone()
        for child in self._children.values():
            child.abandon()
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, _CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

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
        match json.loads(received):
            case {"ready": outcome}:
                self._ready.set_result(outcome)
            case {"exited": pid, "code": code}:
                if child := self._children.pop(pid, None):
                    child.exited(code)
            case {"forked": pid}:
                forked, streams = self._asked.popleft()
                if not forked.done():
                    child = self._children[pid] = ChildHandle(pid, *streams)
                    forked.set_result(child)
            case {"refused": reason}:
                _fail(self._asked.popleft()[0], ForkFailed(reason))
            case {"outdated": reason}:
                if not self.retired:
                    logger.info("Starting a new fork server in place of %s: %s", self.pid, reason)
                self.retire()
                _fail(self._asked.popleft()[0], ForkServerGone(reason))

    def _gone(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if not self.retired:
            logger.warning("The fork server (pid %s) is gone; flow runs under way go on.", self.pid)
        self.retired = True
        for waiting in (self._ready, *(forked for forked, _ in self._asked)):
            _fail(waiting, ForkServerGone("it is dead"))
        for child in self._children.values():
            child.outlive_the_server()
        self._loop.run_in_executor(None, self._process.wait)


def _fail(waiting: asyncio.Future[Any], error: Exception) -> None:
    if not waiting.done():
        waiting.set_exception(error)


def _start(environment: Mapping[str, str]) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """Start a fork server; return the worker's end of its socket, and its process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bluesky_prefect.worker.forkserver", str(theirs.fileno())],
                env={**environment, **SINGLE_THREADED},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # signals from a terminal are for the worker
            )
        except OSError:
            ours.close()
            raise
    ours.setblocking(False)
    return ours, process
