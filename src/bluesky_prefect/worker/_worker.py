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
import httpx
from prefect.exceptions import InfrastructureNotFound
from prefect.settings import get_current_settings
from prefect.workers.base import BaseWorker, BaseWorkerResult
from prefect.workers.process import ProcessWorker, ProcessWorkerResult

from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.worker._client import WorkerClient, is_transient
from bluesky_prefect.worker._control_log import bound_control_log
from bluesky_prefect.worker._events import flow_run_events
from bluesky_prefect.worker._execution import Execution, Executor
from bluesky_prefect.worker._flow_runs import FlowRunInHand, FlowRunsInHand, Phase
from bluesky_prefect.worker._job_variables import WarmJobConfiguration, WarmVariables, check_of, preload_of
from bluesky_prefect.worker._outage_log import OutageLog, quiet_outages
from bluesky_prefect.worker._poller import Poller
from bluesky_prefect.worker._prefect_internals import ENGINE_MODULES, require_tested_prefect
from bluesky_prefect.worker._readiness import Readiness
from bluesky_prefect.worker._stop_signal import cancelled_by_sigterm
from bluesky_prefect.worker.forkserver._pool import ForkServerPool

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.client.schemas.responses import WorkerFlowRunResponse

# When to look again for a flow run that could not be taken.
_LOOK_AGAIN_S = 2.0
# Flow runs that are due this soon are due.
_SOON = datetime.timedelta(milliseconds=50)


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
        self._in_hand = FlowRunsInHand(on_ended=self._ended)
        self._executor = Executor(self._in_hand, lambda: self.client)
        self._looking = asyncio.Lock()
        self._poller = Poller(self._look_for_flow_runs)
        self._outage_log = OutageLog(get_current_settings().api.url)
        self._preloaded: list[str] | None = None
        self._listening: list[asyncio.Task[None]] = []
        self._background: set[asyncio.Task[None]] = set()
        self._runs_once = False
        self._stopping = False

    # From its start to its end.

    async def start(self, run_once: bool = False, *args: Any, **kwargs: Any) -> None:
        """Work until it is told to stop, or once through what is due; with an untested Prefect, exit and say so."""
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
        quiet_outages()
        environment = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}
        self._forks = ForkServerPool(environment)
        self._readiness = Readiness(self._forks, self._check, self._poller.poll_now)
        await super().setup()

    async def teardown(self, *exc_info: Any) -> None:
        """Stop, and with it all flow runs under way; they are reported as crashed."""
        for task in self._listening:
            task.cancel()
        self._poller.cancel()
        try:
            if exc_info and exc_info[0] is not None:
                self._stopping = True
                # On what has no task of the base class that would do so.
                silent = self._in_hand.all_in(Phase.PENDING, Phase.SETTLING)
                await asyncio.gather(*map(self._executor.say_last_word, silent))
            await super().teardown(*exc_info)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end_background()
                await self._forks.close()

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
        """Read the work pool anew, and follow it; in an outage, go on with what is known of it."""
        try:
            await super().sync_with_backend()
        except httpx.HTTPError as error:
            # The base class would write tracebacks, and end the worker after some of them.
            if self._preloaded is None or not is_transient(error):
                raise
            self._outage_log.failed(error)
            return
        self._outage_log.answered()
        with contextlib.suppress(RuntimeError):  # it knows of no work pool yet
            modules = preload_of(self.work_pool.base_job_template)
            if modules != self._preloaded:
                self._preloaded = modules
                self._in_background(self._forks.preload([*ENGINE_MODULES, *modules]))
            if self._runs_once:
                await self._readiness.look()
            elif not self._listening:
                serving = self._poller.serve(), self._listen(self.work_pool.id), self._readiness.wait()
                self._listening = [self._in_background(service) for service in serving]

    async def _check(self) -> tuple[str, dict[str, str | None]]:
        """Return what is to be checked before a flow run is taken, and with which environment, by the work pool."""
        template = self.work_pool.base_job_template
        job = await WarmJobConfiguration.from_template_and_values(template, {}, client=self.client)
        # A job with a command of its own has another interpreter, and nothing of this one.
        return "" if job.command else check_of(template), job.env

    # Which flow runs, and when.

    async def _listen(self, work_pool: UUID) -> None:
        async for what, flow_run_id, at, error in flow_run_events(work_pool):
            if what == "silence":
                self._outage_log.failed(error)
            elif what == "connected":
                self._outage_log.answered()
            if what in ("waiting", "connected"):
                self._poller.poll_now()
            if flow_run_id is not None and what == "cancelling":
                self._in_background(self._executor.cancel(flow_run_id, at))
            elif what in ("connected", "silence"):
                # For what happened while nobody listened.
                self._in_background(self._executor.cancel_as_asked())

    @property
    def client(self) -> "PrefectClient":
        """The client, which asks for the same thing once."""
        client = super().client
        if self._worker_client is None or self._worker_client.wraps is not client:
            self._worker_client = WorkerClient(
                client, self._in_hand, has_room=self._takes_another, select=self._select, on_proposed=self._proposed
            )
        return self._worker_client  # pyright: ignore[reportReturnType]

    async def get_and_submit_flow_runs(self) -> "list[FlowRun]":
        """Take the flow runs that are due, as far as the limit goes; none in an outage, however long that takes."""
        try:
            return await self._look_for_flow_runs()
        except httpx.HTTPError as error:
            if not is_transient(error):
                raise
            return []

    async def _look_for_flow_runs(self) -> "list[FlowRun]":
        async with self._looking:
            return await super().get_and_submit_flow_runs()

    def _takes_another(self) -> bool:
        return self._readiness.is_ready and self._has_room()

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
            if not self._in_hand.may_take(flow_run):
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
            if one := self._in_hand.report_crash(flow_run_id, accepted):
                self._in_background(self._run_crash_hooks(one, state))
        elif state.is_cancelled() and not self._in_hand.is_busy(flow_run_id):
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
        reason = configuration.why_not_forkable(self._forks.environment)
        execution = Execution(flow_run, configuration, self._forks) if reason is None else None
        one = self._in_hand.begin(flow_run, execution)
        try:
            if execution is not None:
                code = await self._executor.run(one, execution, task_status or anyio.TASK_STATUS_IGNORED)
                return ProcessWorkerResult(status_code=code, identifier=execution.pid)
            self.get_flow_run_logger(flow_run).debug("Starting a new interpreter: %s", reason)
            return await self._stock_worker.run(flow_run, configuration, task_status)
        except asyncio.CancelledError:
            await self._executor.say_last_word(one)
            raise
        finally:
            self._in_hand.end(one)

    async def _run_crash_hooks(self, one: FlowRunInHand, state: "State[Any]") -> None:
        """Run the hooks of a flow run that has crashed; another attempt waits for them."""
        try:
            if one.execution is not None:
                await one.execution.try_hooks(state)
        finally:
            self._in_hand.end(one)

    def _ended(self, one: FlowRunInHand) -> None:
        if one.again or not self._has_room():
            # By the time it looks, the base class has made room.
            self._poller.poll_now()

    async def kill_infrastructure(
        self, infrastructure_pid: str, configuration: WarmJobConfiguration, grace_seconds: int = 30
    ) -> None:
        """Stop the process of a flow run that has not begun; the base class asks for it."""
        for one in self._in_hand.all_in(Phase.EXECUTING, Phase.CANCELLING):
            if one.execution is not None and one.execution.pid == infrastructure_pid:
                await self._executor.cancel(one.id)
                return
        raise InfrastructureNotFound(f"This worker has no flow run in process {infrastructure_pid}.")
