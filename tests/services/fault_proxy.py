"""A proxy on loopback between clients and a server, which misbehaves on demand."""

import asyncio
import contextlib
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Literal

from tests.services.bad_line import BadLine

Mode = Literal["pass", "refuse", "500", "503", "429", "slow", "black-hole", "lose-answer", "no-web-sockets"]

_SLOW_S = 2.0
_CHUNK = 65536
_REQUEST = re.compile(rb"[A-Z]+ (\S+) HTTP/1")
_LENGTH = re.compile(rb"(?i)content-length: (\d+)")
_KEY = re.compile(rb'"idempotency_key": ?"([^"]+)"')
_REASONS = {"500": "Internal Server Error", "503": "Service Unavailable", "429": "Too Many Requests"}


class FaultProxy:
    """Passes connections on to a port of this machine or of another host, on a thread of its own.

    Parameters
    ----------
    target : int
        Port of the server.
    server, host : str
        Addresses of the server, and of the proxy itself.
    port : int, optional
        Its own port; by default one that is free.
    enter : callable, optional
        Takes the proxy's thread to another network, before it does anything.

    Attributes
    ----------
    port : int
        Where clients are to ask; it stays the same.
    mode : str
        ``pass``; ``refuse`` (nobody listens); ``500``, ``503``, ``429`` (that answer to everything); ``slow`` (each
        request is held for 2 s); ``black-hole`` (accepts, never answers); ``lose-answer`` (Prefect creates the flow
        run, the client never hears of it); ``no-web-sockets`` (whoever asks for one is refused it). Connections that
        are open when it changes are cut; a black hole swallows them instead.
    struck : int
        How many requests it has misbehaved on; those that it refused are not known to it.
    hidden : str or None
        Requests whose path ends so find nothing, in mode ``pass``.
    held : str or None
        Requests whose path ends so are passed on, and their answers once this is None again.
    victim : str or None
        The idempotency key of the submission that `victim_answer` is for.
    victim_answer : str or None
        In mode ``pass``, the status (``"502"``) that whoever wants to create the victim's flow run gets, with a
        ``Retry-After`` of an hour. Without a victim, the next submission becomes it.
    line : BadLine or None
        What connections are like in mode ``pass``. Those that are open when it changes are cut.
    passed : Counter of str
        How many requests it has passed on, by path.
    """

    def __init__(
        self,
        target: int,
        *,
        server: str = "127.0.0.1",
        host: str = "127.0.0.1",
        port: int = 0,
        enter: Callable[[], None] = lambda: None,
    ) -> None:
        self._target = target
        self._server = server
        self._host = host
        self._enter = enter
        self._mode: Mode = "pass"
        self._line: BadLine | None = None
        self._tasks: set[asyncio.Task] = set()
        self._loop = asyncio.new_event_loop()
        self._listener: socket.socket | None = None
        self.port = port
        self.struck = 0
        self.passed: Counter[str] = Counter()
        self.hidden: str | None = None
        self.held: str | None = None
        self.victim: str | None = None
        self.victim_answer: str | None = None
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()
        self._wait_for(self._listen())

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._wait_for(self._change(mode))

    @property
    def line(self) -> BadLine | None:
        return self._line

    @line.setter
    def line(self, line: BadLine | None) -> None:
        self._line = line
        self._wait_for(self._change(self._mode))

    def close(self) -> None:
        self._wait_for(self._change("refuse"))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        self._enter()
        self._loop.run_forever()

    def _wait_for(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _listen(self) -> None:
        # Not an asyncio.Server: closed while it accepts, that of Python 3.11 forgets connections without closing them.
        self._listener = socket.create_server((self._host, self.port), backlog=100)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _change(self, mode: Mode) -> None:
        self._mode = mode
        if mode == "refuse" and self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        if mode != "black-hole":
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if mode != "refuse" and self._listener is None:
            await self._listen()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # whoever asked has hung up
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Not in the task itself: one that is cancelled before its first step does nothing.
        task.add_done_callback(lambda _: connection.close())

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            if self._mode == "black-hole":
                self.struck += 1
                await asyncio.Event().wait()
            elif self._mode in _REASONS:
                await self._answer(reader, writer)
            else:
                await self._pass(reader, writer)
        except OSError:
            pass  # one side has hung up, or the server is not there: so does the other
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.struck += 1
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {self._mode} {_REASONS[self._mode]}\r\nContent-Length: 2\r\nConnection: close\r\n"
        wait = "Retry-After: 1\r\n" if self._mode == "429" else ""
        writer.write(f"{head}{wait}Content-Type: application/json\r\n\r\n{{}}".encode())
        await writer.drain()
        writer.write_eof()
        await reader.read()  # or the rest of the request makes the kernel reset the connection, and the answer is gone

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._server, self._target)
        passing = _Passing(self)
        try:
            pumps = [
                asyncio.ensure_future(passing.requests(reader, back, writer)),
                asyncio.ensure_future(passing.answers(there, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            back.transport.abort()


class _Passing:
    """One connection that is passed on."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._asked = False
        self._lost = False
        self._held = False
        self._last_s = {"there": 0.0, "back": 0.0}

    async def requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(_CHUNK):
            await self._maybe_swallow()
            if not self._asked and self._proxy.line:
                fate = self._proxy.line.fate()
                self._lost |= fate == "answer lost"
                if fate == "is reset":
                    return
                if fate == "hangs":
                    while await reader.read(_CHUNK):  # until the client has had enough of it
                        pass
                    return
            if self._proxy.victim_answer and b"/create_flow_run" in chunk[:500]:
                chunk = await self._whole(chunk, reader)
                if self._is_victim(chunk):
                    self._proxy.struck += 1
                    head = f"HTTP/1.1 {self._proxy.victim_answer} Singled Out\r\nRetry-After: 3600"
                    client.write(f"{head}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                    continue
            if not self._asked and self._proxy.mode == "slow":
                self._proxy.struck += 1
                await asyncio.sleep(_SLOW_S)
            self._asked = True
            if self._proxy.mode == "no-web-sockets":
                # No server knows the protocol: it answers as to any request that it does not understand.
                chunk, upgrades = re.subn(rb"(?i)upgrade: websocket", b"Upgrade: unknown", chunk)
                self._proxy.struck += upgrades
            self._lost |= self._proxy.mode == "lose-answer" and b"/create_flow_run" in chunk[:500]
            if request := _REQUEST.match(chunk):
                path = request[1].decode()
                self._proxy.passed[path] += 1
                self._held = bool(self._proxy.held) and path.endswith(self._proxy.held)
                self._proxy.struck += self._held
                if self._proxy.hidden and path.endswith(self._proxy.hidden):
                    self._proxy.struck += 1
                    chunk = chunk.replace(request[1], request[1][:-1] + b"/hidden", 1)
            await self._travel(chunk, "there")
            writer.write(chunk)
            await writer.drain()

    async def _travel(self, chunk: bytes, way: str) -> None:
        if line := self._proxy.line:
            clock = asyncio.get_running_loop().time
            await asyncio.sleep(line.travel_s(len(chunk), clock() - self._last_s[way]))
            self._last_s[way] = clock()

    async def _whole(self, chunk: bytes, reader: asyncio.StreamReader) -> bytes:
        while b"\r\n\r\n" not in chunk:
            chunk += await reader.read(_CHUNK)
        head, _, body = chunk.partition(b"\r\n\r\n")
        left = int(_LENGTH.search(head)[1]) - len(body)
        return chunk + await reader.readexactly(left)

    def _is_victim(self, request: bytes) -> bool:
        key = _KEY.search(request)[1].decode()
        self._proxy.victim = self._proxy.victim or key
        return key == self._proxy.victim

    async def answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            await self._maybe_swallow()
            if self._lost:
                self._proxy.struck += 1
                return
            while self._held and self._proxy.held:
                await asyncio.sleep(0.05)
            self._asked = False
            await self._travel(chunk, "back")
            writer.write(chunk)
            await writer.drain()

    async def _maybe_swallow(self) -> None:
        if self._proxy.mode == "black-hole":
            self._proxy.struck += 1
            await asyncio.Event().wait()
