"""The fork server and the children of one worker, as seen by that worker."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from bluesky_prefect.warm.messages import PACKET_BYTES, Job, line

logger = logging.getLogger(f"prefect.{__name__}")

# Libraries that start threads when they are imported, and what keeps each from it: OpenBLAS (numpy), numexpr (pandas),
# the allocator inside pyarrow.
SINGLE_THREADED = {
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
# What a child exits with if nobody is left who could know.
UNKNOWN_CODE = 255
# How long a child that is told to stop may go on; stopping the local stack waits for ten seconds in all.
GRACE_S = 5.0
# Sooner or later nothing but a bug is behind a fork server that dies each time.
_ATTEMPTS = 5


class ForkServerGone(Exception):
    """The fork server is dead, or its modules are not what is on disk any more."""


class Child:
    """A forked process: first waiting, then doing its job, then gone.

    Attributes
    ----------
    pid : int
        Its process id, which is also its process group's.
    returncode : int or None
        What it exited with, negative for a signal; None while it runs.
    """

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._reader = reader
        self._writer = writer
        self._exited = asyncio.Event()

    def exited(self, code: int) -> None:
        """Take note of its end."""
        if self.returncode is None:
            self.returncode = code
            self._exited.set()
            self._writer.close()

    async def run(self, job: Job) -> int:
        """Let it do a job, and return its exit code; if this is cancelled, the child is stopped first."""
        try:
            self._writer.write(line(**job.model_dump(mode="json")))
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()
            await self._exited.wait()
        except asyncio.CancelledError:
            await self._stop()
            raise
        assert self.returncode is not None  # noqa: S101  # what the event stands for
        return self.returncode

    async def outlive_the_server(self) -> None:
        """Wait for its end where there is no fork server to tell of it."""
        received = b""
        with contextlib.suppress(ConnectionError):
            received = await self._reader.readline()
        self.exited(json.loads(received)["code"] if received else UNKNOWN_CODE)

    def abandon(self) -> None:
        """Let go of it: it ends if it waits for its job, and goes on if it has one."""
        self._writer.close()

    def kill(self, number: int) -> None:
        """Send a signal to it and to all that it started."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def _stop(self) -> None:
        # Prefect's engine reports the flow run as crashed upon SIGTERM; that takes it a moment.
        self.kill(signal.SIGTERM)
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(GRACE_S):
                await self._exited.wait()
            self.kill(signal.SIGKILL)
            await self._exited.wait()


@dataclass
class _Waiting:
    """A fork that was asked for."""

    future: asyncio.Future[Child]
    channel: socket.socket


class ForkServer:
    """A fork server's process.

    Parameters
    ----------
    modules : sequence of str
        What it imports.
    environment : mapping
        What it is started with.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        command = [sys.executable, "-P", "-m", "bluesky_prefect.warm.fork_server", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command,
                env={**environment, **SINGLE_THREADED},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Signals from a terminal are for the worker.
                start_new_session=True,
            )
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._children: dict[int, Child] = {}
        self._ended: dict[int, int] = {}
        self._abandoned_at_the_end: weakref.WeakSet[Child] = weakref.WeakSet()
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
        """Whether its process has ended."""
        return self._process.returncode is not None

    async def ready(self) -> dict[str, Any]:
        """Wait until it has imported everything, and return how that went.

        Raises
        ------
        ForkServerGone
            If it died meanwhile.
        """
        return await asyncio.shield(self._ready)

    async def fork(self) -> Child:
        """Return a new child, which waits for its job.

        Raises
        ------
        ForkServerGone
            If it is dead, or a module has changed on disk; no child has been given a job then.
        """
        await self.ready()
        if self.retired:
            raise ForkServerGone
        number = next(self._numbers)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._waiting[number] = waiting = _Waiting(self._loop.create_future(), ours)
        try:
            with theirs:
                socket.send_fds(self._socket, [str(number).encode()], [theirs.fileno()])
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=PACKET_BYTES)
            hello = asyncio.ensure_future(reader.readline())
            await asyncio.wait((hello, waiting.future), return_when=asyncio.FIRST_COMPLETED)
            if not hello.done():
                hello.cancel()
                writer.close()
                waiting.future.result()  # raises
            if not (said := hello.result()):
                writer.close()
                raise ForkServerGone
        except (OSError, ConnectionError) as error:
            raise ForkServerGone from error
        finally:
            del self._waiting[number]
            waiting.future.cancel()
        child = Child(json.loads(said)["pid"], reader, writer)
        self._abandoned_at_the_end.add(child)
        if number in self._ended:
            child.exited(self._ended.pop(number))
        elif self._socket.fileno() < 0:
            self._watch(child)
        else:
            self._children[number] = child
        return child

    def retire(self) -> None:
        """Fork no more; it ends with its last child."""
        if not self.retired:
            self.retired = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """End it; children that still run go on."""
        self.retire()
        self._gone()
        for child in self._abandoned_at_the_end:
            child.abandon()
        self._process.terminate()
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
        elif "refused" in message:
            self._refused(message)
        else:
            self._exited(message["exited"], message["code"])

    def _refused(self, message: dict[str, Any]) -> None:
        changed = ", ".join(message["changed"])
        reason = f"changed on disk: {changed}" if changed else f"it has {message['threads']} threads"
        if not self.retired:
            logger.info("Starting a new fork server in place of %s: %s", self.pid, reason)
        self.retire()
        if waiting := self._waiting.get(message["refused"]):
            waiting.future.set_exception(ForkServerGone(reason))

    def _exited(self, number: int, code: int) -> None:
        if child := self._children.pop(number, None):
            child.exited(code)
        elif number in self._waiting:
            self._ended[number] = code

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
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(ForkServerGone("it is dead"))
        for child in self._children.values():
            self._watch(child)
        self._children.clear()
        self._keep(asyncio.to_thread(self._process.wait))

    def _watch(self, child: Child) -> None:
        self._keep(child.outlive_the_server())

    def _keep(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Forks:
    """Children from a fork server that is always there, with the modules as they are on disk.

    Parameters
    ----------
    environment : mapping
        What a fork server is started with; flow runs have it too, their own variables apart.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._modules: list[str] = []
        self._excluded: set[str] = set()
        self._server: ForkServer | None = None
        self._lock = asyncio.Lock()
        self._retired: list[ForkServer] = []

    @property
    def pid(self) -> int | None:
        """The process id of the fork server, if there is one."""
        return self._server and self._server.pid

    async def preload(self, modules: Sequence[str]) -> None:
        """Have a fork server with these modules; one with others forks no more."""
        async with self._lock:
            if modules != self._modules and self._server is not None:
                self._server.retire()
            self._modules = list(modules)
        with contextlib.suppress(ForkServerGone):
            await self._current()

    async def fork(self) -> Child:
        """Return a new child, which waits for its job.

        Raises
        ------
        ForkServerGone
            If fork servers die one after the other.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return await (await self._current()).fork()
            except ForkServerGone:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError  # not reached

    async def close(self) -> None:
        """End all fork servers."""
        for server in (*self._retired, *filter(None, [self._server])):
            await server.close()

    async def _current(self) -> ForkServer:
        async with self._lock:
            if self._server is not None and self._server.retired:
                self._retired = [server for server in self._retired if not server.ended] + [self._server]
                self._server = None
            if self._server is None:
                self._server = await self._start()
            return self._server

    async def _start(self) -> ForkServer:
        while True:
            modules = [module for module in self._modules if module not in self._excluded]
            server = ForkServer(modules, self.environment)
            try:
                outcome = await server.ready()
            except BaseException:
                await server.close()
                raise
            threaded = outcome["threaded"]
            if threaded is None:
                break
            logger.warning("Not preloading %s: importing it starts a thread, which forbids forking.", threaded)
            self._excluded.add(threaded)
            await server.close()
        for module, reason in outcome["failed"].items():
            logger.warning("Not preloading %s: %s", module, reason)
        logger.info(
            "Fork server %s has imported its modules in %.1f s; not installed: %s",
            server.pid,
            outcome["took_s"],
            ", ".join(outcome["missing"]) or "none",
        )
        return server
