"""Prefect's bookkeeping of the flow runs under way, shared by all of a worker's."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import anyio
import anyio.abc
from prefect.runner._control_channel import ControlChannel
from prefect.runner._flow_run_executor import FlowRunExecutionResult, FlowRunExecutorContext
from prefect.runner._process_manager import ProcessHandle

from bluesky_prefect.worker._client import patiently
from bluesky_prefect.worker._starter import WarmStarter

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

logger = logging.getLogger(f"prefect.{__name__}")

# One that could not connect to the event stream asks for cancelled flow runs instead, each ten seconds. A new one is
# not tried for each flow run where there are no web sockets at all.
_RENEWED_AFTER_S = 30.0


class _Shared:
    """One context, kept open by a task of its own as long as somebody needs it."""

    def __init__(self) -> None:
        self.starters: dict[UUID, WarmStarter] = {}
        self.made = time.monotonic()
        self.users = 0
        self.context = FlowRunExecutorContext()
        self.ended = False
        self._unused = anyio.Event()
        self._cancelling: dict[UUID, anyio.Event] = {}

    async def keep(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        is_open = False
        try:
            async with self.context as context:
                self._extend(context)
                is_open = True
                task_status.started()
                await self._unused.wait()
        except Exception:
            if not is_open:
                raise
            # The worker goes on, with another one.
            logger.exception("The bookkeeping of flow runs under way has failed.")
        finally:
            self.ended = True

    def _extend(self, context: FlowRunExecutorContext) -> None:
        """Have cancellations waited for; one that fails concerns no other flow run."""
        manager = context._cancellation_manager
        cancel = manager.cancel_by_id

        async def cancel_by_id(flow_run_id: UUID) -> None:
            over = self._cancelling.setdefault(flow_run_id, anyio.Event())
            try:
                await patiently(lambda: cancel(flow_run_id))
            except Exception:
                logger.exception("Flow run %s cannot be cancelled.", flow_run_id)
            finally:
                over.set()
                self._cancelling.pop(flow_run_id, None)

        manager.cancel_by_id = cancel_by_id

    def close(self) -> None:
        self._unused.set()

    @property
    def listens(self) -> bool:
        """True if it would hear of a cancelled flow run at once."""
        consumer = self.context._observer._consumer_task
        return consumer is not None and not consumer.done()

    async def cancelled(self, flow_run_id: UUID) -> None:
        """Wait until a cancellation that is under way is over, hooks included."""
        if cancelling := self._cancelling.get(flow_run_id):
            await cancelling.wait()

    # Prefect knows one runner of hooks for each context.

    async def run_cancellation_hooks(self, flow_run: "FlowRun", state: "State") -> None:
        if starter := self.starters.get(flow_run.id):
            await starter.run_cancellation_hooks(flow_run, state)

    async def run_crashed_hooks(self, flow_run: "FlowRun", state: "State") -> None:
        if starter := self.starters.get(flow_run.id):
            await starter.run_crashed_hooks(flow_run, state)


class Executors:
    """Execute flow runs as Prefect does, with what that needs made once.

    Prefect's process worker makes it for each flow run: a client, two web sockets and a server socket. One is
    enough for all, as long as its connection to the event stream lasts: through that it hears of flow runs that are
    to be cancelled.

    Parameters
    ----------
    tasks : TaskGroup
        Where it lives.
    """

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._shared: _Shared | None = None
        self._lock = anyio.Lock()
        self._closing = False

    async def execute(
        self,
        flow_run: "FlowRun",
        make_starter: Callable[[ControlChannel], WarmStarter],
        *,
        task_status: anyio.abc.TaskStatus[ProcessHandle],
    ) -> FlowRunExecutionResult | None:
        """Execute a flow run; return how that ended, or None if it was not started.

        All that follows from its end is over then: it is reported as crashed if need be, and its hooks have run.
        """
        async with self._use() as shared:
            starter = make_starter(shared.context.control_channel)
            shared.starters[flow_run.id] = starter
            try:
                executor = shared.context.create_executor(
                    flow_run, starter, propose_submitting=False, hook_runner=shared
                )
                return await executor.submit(task_status=task_status)
            finally:
                await shared.cancelled(flow_run.id)
                del shared.starters[flow_run.id]

    async def open(self) -> None:
        """Make what is needed before it is."""
        async with self._lock:
            await self._current()

    def close(self) -> None:
        """Close everything as soon as nobody uses it."""
        self._closing = True
        if self._shared is not None and self._shared.users == 0:
            self._shared.close()
            self._shared = None

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[_Shared]:
        async with self._lock:
            shared = await self._current()
            shared.users += 1
        try:
            yield shared
        finally:
            shared.users -= 1
            if shared.users == 0 and (self._closing or shared is not self._shared):
                shared.close()
                if shared is self._shared:
                    self._shared = None

    async def _current(self) -> _Shared:
        old = self._shared
        if old is None or old.ended:
            self._shared = await patiently(self._made, is_worth_it=_is_any_error)
        elif not old.listens and time.monotonic() - old.made > _RENEWED_AFTER_S:
            try:
                self._shared = await self._made()
            except Exception as error:  # noqa: BLE001  # it is only better than the old one
                logger.debug("No new connections to Prefect's event stream: %r", error)
                old.made = time.monotonic()
            else:
                if old.users == 0:
                    old.close()
        assert self._shared is not None  # noqa: S101  # made above
        return self._shared

    async def _made(self) -> _Shared:
        shared = _Shared()
        await self._tasks.start(shared.keep)
        return shared


def _is_any_error(error: BaseException) -> bool:
    # Whatever a server that is away, or a proxy in between, makes of a handshake.
    return isinstance(error, Exception)
