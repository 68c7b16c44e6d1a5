"""A forked process, as its worker sees it."""

import asyncio
import contextlib
import json
import os
import signal
import socket

import anyio

from bluesky_prefect.worker.forkserver._protocol import PACKET_BYTES, Job, line

# What a child exits with if nobody is left who could know.
UNKNOWN_CODE = 255
# How long a child that is told to stop may go on; stopping the local stack waits for ten seconds in all.
GRACE_S = 5.0
# How long a child may go on whose flow run is cancelled, as with Prefect's process worker.
CANCELLATION_GRACE_S = 30.0


class ChildHandle:
    """A forked process: first waiting, then doing its job, then gone.

    Attributes
    ----------
    pid : int
        Its process id, which is also its process group's.
    returncode : int or None
        What it exited with, negative for a signal; None while it runs.
    """

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._channel = channel
        self._exited = asyncio.Event()
        self._sending = asyncio.Lock()

    def exited(self, code: int) -> None:
        """Take note of its end."""
        if self.returncode is None:
            self.returncode = code
            self._exited.set()
            self.abandon()

    async def run(self, job: Job) -> int:
        """Let it do a job, and return its exit code; if this is cancelled, the child is stopped first."""
        try:
            await self._send(line(**job.model_dump(mode="json")))
            await self._exited.wait()
        except asyncio.CancelledError:
            await self._stop()
            raise
        assert self.returncode is not None  # noqa: S101  # what the event stands for
        return self.returncode

    async def cancel(self) -> None:
        """Have it end its flow run as cancelled, and wait until it has."""
        await self._end_within(CANCELLATION_GRACE_S, line(cancel=True))

    async def outlive_the_server(self) -> None:
        """Wait for its end where there is no fork server to tell of it."""
        received = b""
        with contextlib.suppress(OSError):
            received = await asyncio.get_running_loop().sock_recv(self._channel, PACKET_BYTES)
        self.exited(json.loads(received)["code"] if received else UNKNOWN_CODE)

    def abandon(self) -> None:
        """Let go of it: it ends if it waits for its job, and goes on if it has one."""
        if self._channel.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._channel)
            loop.remove_writer(self._channel)
            self._channel.close()

    async def _send(self, text: bytes) -> None:
        """Send a line after those before it, as long as there is somebody to read it."""
        async with self._sending:
            sent = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(self._channel, text))
            exited = asyncio.ensure_future(self._exited.wait())
            try:
                await asyncio.wait((sent, exited), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sent.cancel()
                exited.cancel()
                await asyncio.gather(sent, exited, return_exceptions=True)

    def kill(self, number: int) -> None:
        """Send a signal to it and to all that it started."""
        if self.returncode is not None:
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            # It has not got as far as its own process group, or it is gone.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _stop(self) -> None:
        # Prefect's engine reports the flow run as crashed upon SIGTERM; that takes it a moment.
        self.kill(signal.SIGTERM)
        with anyio.CancelScope(shield=True):
            await self._end_within(GRACE_S)

    async def _end_within(self, grace_s: float, text: bytes = b"") -> None:
        with anyio.move_on_after(grace_s):
            # A child that is stopped reads nothing, and what is to be read first may be large.
            await self._send(text)
            await self._exited.wait()
        self.kill(signal.SIGKILL)
        # A fork server that is stopped does not tell.
        with anyio.move_on_after(GRACE_S):
            await self._exited.wait()
        self.exited(-signal.SIGKILL)
