"""The worker type ``warm-process``."""

import asyncio
import contextlib
import datetime
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import anyio.abc
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import Abort, InfrastructureNotFound
from prefect.settings import get_current_settings
from prefect.states import Crashed, Scheduled
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseWorker, BaseWorkerResult
from prefect.workers.process import ProcessWorker

from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.worker._client import Proposals, WorkerClient
from bluesky_prefect.worker._control_log import bound_control_log
from bluesky_prefect.worker._events import FlowRunEvents
from bluesky_prefect.worker._execution import STOPPED, Execution, Executions
from bluesky_prefect.worker._forkable import why_not_forkable
from bluesky_prefect.worker._job_variables import WarmJobConfiguration, WarmVariables, preload_of
from bluesky_prefect.worker._poller import Poller
from bluesky_prefect.worker._prefect_internals import ENGINE_MODULES, require_tested_prefect
from bluesky_prefect.worker._stop_signal import cancelled_by_sigterm
from bluesky_prefect.worker.forkserver._pool import ForkServerPool

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.client.schemas.responses import WorkerFlowRunResponse

# How long the last word on flow runs that a stopping worker stops may take.
_LAST_WORD_S = 5.0
# How many flow runs are remembered to have been taken: more than a list of scheduled ones holds.
_MAX_TAKEN = 1000
# How often to ask for cancelled flow runs without an event stream, as Prefect's process worker does.
_CANCELLATION_POLL_S = 10.0
# When to look again for a flow run that could not be taken.
_LOOK_AGAIN_S = 2.0
# Flow runs that are due this soon are due.
_SOON = datetime.timedelta(milliseconds=50)


class WarmProcessWorkerResult(BaseWorkerResult):
    """The process id and the exit code of a flow run's process."""


class WarmProcessWorker(BaseWorker[WarmJobConfiguration, WarmVariables, BaseWorkerResult]):
    """Execute each flow run in a process forked from one that has imported what flow runs need.

    Prefect's process worker executes what cannot be forked.
    """

    type = "warm-process"
    job_configuration = WarmJobConfiguration
    job_configuration_variables = WarmVariables

    _description = (
        "Execute flow runs as processes that are forked from one which has imported what they need: they start "
        "within a second. Runs on Linux."
    )
    _display_name = "Warm Process"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stock_worker = ProcessWorker(*args, **kwargs)
        self._worker_client: WorkerClient | None = None
        # Proposals to make flow runs pending, of those that have not begun since.
        self._pending: Proposals = {}
        self._looking = asyncio.Lock()
        self._poller = Poller(self.get_and_submit_flow_runs)
        self._events = FlowRunEvents(
            on_connected=self._connected, on_waiting=self._poller.poll_now, on_cancelling=self._cancelling
        )
        self._preloaded: list[str] | None = None
        # The scheduled state in which each flow run was last taken: a list that was made before that is out of date.
        self._taken: dict[UUID, UUID | None] = {}
        # Flow runs whose process has not ended; and those of them that are scheduled again already.
        self._executing: set[UUID] = set()
        self._again: set[UUID] = set()
        self._executions = Executions(lambda: self.client)
        self._listening: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._runs_once = False
        self._stopping = False

    # From its start to its end.

    async def start(self, run_once: bool = False, *args: Any, **kwargs: Any) -> None:
        """Work until it is told to stop, or once through what is due.

        Raises
        ------
        SystemExit
            With a line that says so, if it was not tested with this Prefect.
        """
        try:
            require_tested_prefect()
        except ConfigurationError as error:
            raise SystemExit(str(error)) from None
        self._runs_once = run_once
        with cancelled_by_sigterm():
            await super().start(run_once, *args, **kwargs)

    async def setup(self) -> None:
        """Prepare to work, with a fork server."""
        bound_control_log()
        environment = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}
        self._forks = ForkServerPool(environment)
        await super().setup()

    async def teardown(self, *exc_info: Any) -> None:
        """Stop, and with it all flow runs under way; they are reported as crashed."""
        if self._listening is not None:
            self._listening.cancel()
        self._poller.cancel()
        try:
            if exc_info and exc_info[0] is not None:
                self._stopping = True
                with anyio.move_on_after(_LAST_WORD_S, shield=True):
                    await self._put_back()
            await super().teardown(*exc_info)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end_background()
                await self._forks.close()

    async def _put_back(self) -> None:
        """Leave to another worker what this one has made pending and not begun."""
        for flow_run_id, proposal in list(self._pending.items()):
            with contextlib.suppress(Exception, Abort):
                if (await proposal).status == SetStateStatus.ACCEPT:
                    await propose_state(self.client, Scheduled(), flow_run_id=flow_run_id)

    async def _end_background(self) -> None:
        if self._stopping:
            for task in self._background:
                task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def sync_with_backend(self) -> None:
        """Read the work pool anew, and follow it."""
        await super().sync_with_backend()
        with contextlib.suppress(RuntimeError):  # it knows of no work pool yet
            modules = preload_of(self.work_pool.base_job_template)
            if modules != self._preloaded:
                self._preloaded = modules
                self._in_background(self._forks.preload([*ENGINE_MODULES, *modules]))
            if self._listening is None and not self._runs_once:
                self._listening = self._in_background(self._listen(self.work_pool.id))

    # Which flow runs, and when.

    async def _listen(self, work_pool: UUID) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._poller.serve)
            tasks.start_soon(self._events.listen, work_pool)
            tasks.start_soon(self._poll_for_cancellations)

    def _connected(self) -> None:
        # For what happened while nobody listened.
        self._poller.poll_now()
        self._in_background(self._executions.cancel_as_asked())

    def _cancelling(self, flow_run_id: UUID) -> None:
        self._in_background(self._executions.cancel(flow_run_id))

    async def _poll_for_cancellations(self) -> None:
        while True:
            await anyio.sleep(_CANCELLATION_POLL_S)
            if not self._events.connected:
                self._in_background(self._executions.cancel_as_asked())

    @property
    def client(self) -> "PrefectClient":
        """The client, which asks for the same thing once."""
        client = super().client
        if self._worker_client is None or self._worker_client.wraps is not client:
            self._worker_client = WorkerClient(
                client,
                self._pending,
                has_room=self._has_room,
                select=self._select,
                on_proposed=self._proposed,
                is_again=self._again.__contains__,
            )
        return self._worker_client  # pyright: ignore[reportReturnType]

    async def get_and_submit_flow_runs(self) -> "list[FlowRun]":
        """Take the flow runs that are due, as far as the limit goes."""
        async with self._looking:
            return await super().get_and_submit_flow_runs()

    def _has_room(self) -> bool:
        try:
            return self.limiter.available_tokens > 0
        except RuntimeError:  # no limit
            return True

    def _select(self, scheduled: "list[WorkerFlowRunResponse]") -> "list[WorkerFlowRunResponse]":
        """Select what is due, and come back for what is due soon: a flow run that waits would take a place."""
        now = datetime.datetime.now(datetime.UTC)
        due = []
        for entry in scheduled:
            flow_run = entry.flow_run
            if flow_run.id in self._taken and self._taken[flow_run.id] == flow_run.state_id:
                continue
            if flow_run.id in self._executing:
                # It is to be retried, or resumed, and the process of its last attempt has not ended.
                self._again.add(flow_run.id)
                continue
            start = flow_run.next_scheduled_start_time or flow_run.expected_start_time or now
            if start <= now + _SOON:
                due.append(entry)
            else:
                self._poller.poll_in(start.timestamp() - now.timestamp())
        return due

    def _proposed(self, flow_run_id: UUID, state: "State[Any]", accepted: bool) -> None:
        """Take note of a state that the base class has proposed."""
        if state.is_pending():
            if not accepted:
                # Somebody else has it; or the server could not be asked, and it still waits.
                self._poller.poll_in(_LOOK_AGAIN_S)
        elif state.is_crashed():
            execution = self._executions.crashed(flow_run_id)
            if execution is not None and accepted:
                self._in_background(self._run_crash_hooks(execution, state))
        elif state.is_cancelled() and flow_run_id not in self._executing:
            # There is no such deployment any more, and the base class keeps the flow run's place.
            with contextlib.suppress(RuntimeError):
                self.limiter.release_on_behalf_of(flow_run_id)
            self._poller.poll_in(_LOOK_AGAIN_S)

    # How a flow run is executed.

    async def run(
        self,
        flow_run: "FlowRun",
        configuration: WarmJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> BaseWorkerResult:
        """Execute a flow run and return how its process ended; if the worker is stopped meanwhile, it has crashed."""
        if self._stopping:
            await anyio.sleep_forever()
        execution = Execution(flow_run, configuration, self._forks)
        self._begin(flow_run)
        try:
            reason = why_not_forkable(configuration, self._forks.environment)
            if reason is None:
                code = await self._executions.run(execution, task_status or anyio.TASK_STATUS_IGNORED)
                return WarmProcessWorkerResult(status_code=code, identifier=str(execution.pid))
            execution = None
            self.get_flow_run_logger(flow_run).debug("Starting a new interpreter: %s", reason)
            return await self._stock_worker.run(flow_run, configuration, task_status)
        except asyncio.CancelledError:
            state = execution.last_state() if execution else Crashed(message=STOPPED)
            with anyio.move_on_after(_LAST_WORD_S, shield=True), contextlib.suppress(Exception, Abort):
                await propose_state(self.client, state, flow_run.id, force=state.is_cancelled())
            raise
        finally:
            self._end(flow_run)

    async def _run_crash_hooks(self, execution: Execution, state: "State[Any]") -> None:
        """Run the hooks of a flow run that has crashed; another attempt waits for them."""
        self._executing.add(execution.flow_run.id)
        try:
            await execution.try_hooks(state)
        finally:
            self._end(execution.flow_run)

    def _begin(self, flow_run: "FlowRun") -> None:
        self._pending.pop(flow_run.id, None)
        self._executing.add(flow_run.id)
        self._again.discard(flow_run.id)
        self._taken[flow_run.id] = flow_run.state_id
        while len(self._taken) > _MAX_TAKEN:
            del self._taken[next(iter(self._taken))]

    def _end(self, flow_run: "FlowRun") -> None:
        self._executing.discard(flow_run.id)
        if flow_run.id in self._again or not self._has_room():
            # By the time it looks, the base class has made room.
            self._poller.poll_now()

    async def kill_infrastructure(
        self, infrastructure_pid: str, configuration: WarmJobConfiguration, grace_seconds: int = 30
    ) -> None:
        """Stop the process of a flow run that has not begun; the base class asks for it.

        Raises
        ------
        InfrastructureNotFound
            If there is no such process here.
        """
        if not await self._executions.cancel_process(infrastructure_pid):
            raise InfrastructureNotFound(f"This worker has no flow run in process {infrastructure_pid}.")
