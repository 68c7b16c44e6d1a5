"""Prefect's bookkeeping of the flow runs under way, shared by all of a worker's."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
from prefect.runner._flow_run_executor import FlowRunExecutorContext

# One that could not connect to the event stream asks for cancelled flow runs instead, each ten seconds. A new one is
# not tried for each flow run where there are no web sockets at all.
_RENEWED_AFTER_S = 30.0


class _Shared:
    """One context, kept open by a task of its own as long as somebody needs it."""

    def __init__(self) -> None:
        self.users = 0
        self.made = time.monotonic()
        self.context = FlowRunExecutorContext()
        self._unused = anyio.Event()

    async def keep(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        async with self.context:
            task_status.started()
            await self._unused.wait()

    def close(self) -> None:
        self._unused.set()

    @property
    def listens(self) -> bool:
        """Whether it would hear of a cancelled flow run at once."""
        consumer = self.context._observer._consumer_task
        return consumer is not None and not consumer.done()


class Executors:
    """Contexts for executing flow runs.

    Prefect's process worker makes one for each flow run: a client, two web sockets and a server socket. One is
    enough for all, as long as its connection to the event stream lasts: through that it hears of flow runs that are
    to be cancelled.

    Parameters
    ----------
    tasks : TaskGroup
        Where contexts live.
    """

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._shared: _Shared | None = None
        self._lock = anyio.Lock()
        self._closing = False

    @asynccontextmanager
    async def context(self) -> AsyncIterator[FlowRunExecutorContext]:
        """Give a context that lasts until the end of the block."""
        async with self._lock:
            shared = await self._current()
            shared.users += 1
        try:
            yield shared.context
        finally:
            shared.users -= 1
            if shared.users == 0 and (self._closing or shared is not self._shared):
                shared.close()

    async def open(self) -> None:
        """Make one before it is needed."""
        async with self._lock:
            await self._current()

    def close(self) -> None:
        """Close each as soon as nobody uses it."""
        self._closing = True
        if self._shared is not None and self._shared.users == 0:
            self._shared.close()

    async def _current(self) -> _Shared:
        old = self._shared
        if old is None or (not old.listens and time.monotonic() - old.made > _RENEWED_AFTER_S):
            self._shared = shared = _Shared()
            await self._tasks.start(shared.keep)
            if old is not None and old.users == 0:
                old.close()
            return shared
        return old
