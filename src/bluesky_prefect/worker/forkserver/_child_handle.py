"""A forked process, as its worker sees it."""

import asyncio
import contextlib
import json
import os
import signal

import anyio

from bluesky_prefect.worker.forkserver._protocol import Job, message

# What a child exits with if nobody is left who could know.
UNKNOWN_CODE = 255
# How long a child that is told to stop may go on; stopping the local stack waits for ten seconds in all.
GRACE_S = 5.0
# How long a child may go on whose flow run is cancelled, as with Prefect's process worker.
CANCELLATION_GRACE_S = 30.0


class ChildHandle:
    """A forked process: first waiting, then doing its job, then gone.

    Parameters
    ----------
    pid : int
        Its process id, which is also its process group's.
    reader, writer : streams
        The worker's end of its socket.
    """

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._reader = reader
        self._writer = writer
        self._exited = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    def exited(self, code: int) -> None:
        """Take note of its end, with its exit code, which is negative for a signal."""
        if self.returncode is None:
            self.returncode = code
            self._exited.set()
            self.abandon()

    async def run(self, job: Job) -> int:
        """Let it do a job, and return its exit code; if this is cancelled, the child is stopped first."""
        self._writer.write(message(**job.model_dump(mode="json")))
        try:
            await self._exited.wait()
        except asyncio.CancelledError:
            # Prefect's engine reports the flow run as crashed upon SIGTERM; that takes it a moment.
            self._kill(signal.SIGTERM)
            with anyio.CancelScope(shield=True):
                await self._end_within(GRACE_S)
            raise
        return UNKNOWN_CODE if self.returncode is None else self.returncode

    async def cancel(self) -> None:
        """Have it end its flow run as cancelled, and wait until it has."""
        self._writer.write(message(cancel=True))
        await self._end_within(CANCELLATION_GRACE_S)

    def outlive_the_server(self) -> None:
        """Learn of its end from itself: there is no fork server any more to tell of it."""
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        said = b""
        with contextlib.suppress(OSError):
            said = await self._reader.read()
        self.exited(json.loads(said)["code"] if said.endswith(b"\n") else UNKNOWN_CODE)

    def abandon(self) -> None:
        """Let go of it: it ends if it waits for its job, and goes on if it has one."""
        self._writer.transport.abort()
        if self._reading is not None and self.returncode is None:
            self._reading.cancel()

    async def _end_within(self, grace_s: float) -> None:
        with anyio.move_on_after(grace_s):
            await self._exited.wait()
        self._kill(signal.SIGKILL)
        # A fork server that is stopped does not tell.
        with anyio.move_on_after(GRACE_S):
            await self._exited.wait()
        self.exited(-signal.SIGKILL)

    def _kill(self, number: int) -> None:
        """Send a signal to it and to all that it started."""
        if self.returncode is not None:
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            # It has not got as far as its own process group, or it is gone.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
