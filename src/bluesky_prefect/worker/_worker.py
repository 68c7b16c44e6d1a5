"""The worker type ``warm-process``."""

import asyncio
import contextlib
import dataclasses
import datetime
import functools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import anyio.abc
import httpx
from prefect.runner._flow_run_executor import FlowRunExecutionResult
from prefect.runner._process_manager import ProcessHandle
from prefect.settings import get_current_settings
from prefect.states import Scheduled
from prefect.utilities.engine import propose_state
from prefect.workers.process import ProcessWorker, ProcessWorkerResult

from bluesky_prefect.worker._client import SparingClient, begin_submission
from bluesky_prefect.worker._control_log import bound_control_log
from bluesky_prefect.worker._executors import Executors
from bluesky_prefect.worker._forkable import why_not_forkable
from bluesky_prefect.worker._job_variables import WarmJobConfiguration, WarmVariables, preload_of
from bluesky_prefect.worker._poller import Poller
from bluesky_prefect.worker._starter import WarmStarter, run_environment
from bluesky_prefect.worker._stop_signal import cancelled_by_sigterm
from bluesky_prefect.worker.forkserver._pool import ForkServerPool
from bluesky_prefect.worker.forkserver._protocol import Job

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, WorkPool
    from prefect.client.schemas.responses import WorkerFlowRunResponse
    from prefect.workers.base import BaseWorkerResult
    from prefect.workers.process import ProcessJobConfiguration

# How long the last word on flow runs that a stopping worker stops may take.
_LAST_WORD_S = 5.0
# How many flow runs are remembered to have been taken: more than a list of scheduled ones holds.
_MAX_TAKEN = 1000
# When to look again for a flow run that could not be taken.
_LOOK_AGAIN_S = 2.0
# Flow runs that are due this soon are due.
_SOON = datetime.timedelta(milliseconds=50)


@dataclasses.dataclass
class _Submission:
    """A flow run on its way from the list of scheduled ones to its process.

    Attributes
    ----------
    pending : asyncio.Task
        Makes it pending; returns whether it is.
    is_executing : bool
        Whether it has got that far.
    """

    pending: asyncio.Task[bool]
    is_executing: bool = False


class WarmProcessWorker(ProcessWorker):
    """Execute each flow run in a process forked from one that has imported what flow runs need.

    It is a process worker in all that it promises; what cannot be forked is executed as that one would.
    """

    type = "warm-process"
    job_configuration = WarmJobConfiguration
    job_configuration_variables = WarmVariables

    _description = (
        "Execute flow runs as processes that are forked from one which has imported what they need: they start "
        "within a second. Runs on Linux."
    )
    _display_name = "Warm Process"
    _documentation_url = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._looking = asyncio.Lock()
        self._wake = Poller(self.get_and_submit_flow_runs)
        self._preloaded: list[str] | None = None
        self._preloading: asyncio.Task[None] | None = None
        # The scheduled state in which each flow run was last taken: a list that was made before that is out of date.
        self._taken: dict[UUID, UUID | None] = {}
        self._submissions: dict[UUID, _Submission] = {}
        # Flow runs whose process has not ended, and those of them that are scheduled again already.
        self._executing: set[UUID] = set()
        self._again: set[UUID] = set()
        self._sparing: SparingClient | None = None
        self._runs_once = False

    async def start(self, run_once: bool = False, *args: Any, **kwargs: Any) -> None:
        """Work until it is told to stop, or once through what is due."""
        self._runs_once = run_once
        with cancelled_by_sigterm():
            await super().start(run_once, *args, **kwargs)

    async def setup(self) -> None:
        """Prepare to work, with a fork server and an ear for new flow runs."""
        bound_control_log()
        environment = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}
        self._forks = ForkServerPool(environment)
        await super().setup()
        self._executors = Executors(self._tasks)
        self._scope = anyio.CancelScope()
        if not self._runs_once:
            self._tasks.start_soon(self._be_awake)

    @property
    def client(self) -> "PrefectClient":
        """The client, which asks for the same thing once."""
        if self._client is None or self._sparing is None or self._sparing.wraps is not self._client:
            self._sparing = SparingClient(super().client)
        return self._sparing  # pyright: ignore[reportReturnType]

    async def teardown(self, *exc_info: Any) -> None:
        """Stop, and with it all flow runs under way; they are reported as crashed."""
        self._scope.cancel()
        self._wake.forget()
        self._executors.close()
        try:
            await super().teardown(*exc_info)
        finally:
            if self._preloading is not None:
                self._preloading.cancel()
            with anyio.CancelScope(shield=True):
                await self._forks.close()

    @property
    def _tasks(self) -> anyio.abc.TaskGroup:
        assert self._runs_task_group is not None  # noqa: S101  # from setup to teardown
        return self._runs_task_group

    def _record_work_pool_snapshot(self, work_pool: "WorkPool") -> None:
        super()._record_work_pool_snapshot(work_pool)
        modules = preload_of(self.work_pool.base_job_template)
        if modules != self._preloaded:
            self._preloaded = modules
            self._preloading = asyncio.ensure_future(self._forks.preload(modules))

    async def _be_awake(self) -> None:
        with self._scope:
            while self._work_pool is None or not self._has_successfully_synced:
                await anyio.sleep(0.2)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._wake.serve)
                tasks.start_soon(self._wake.listen, self._work_pool.id)
                with contextlib.suppress(httpx.HTTPError):
                    await self._executors.open()

    # Which flow runs, and when.

    async def get_and_submit_flow_runs(self) -> "list[FlowRun]":
        """Take the flow runs that are due, as far as the limit goes."""
        async with self._looking:
            return await super().get_and_submit_flow_runs()

    async def _get_scheduled_flow_runs(self) -> "list[WorkerFlowRunResponse]":
        """Ask for them, unless there is no place for any: when one becomes free, it looks."""
        if self._limiter is not None and self._limiter.available_tokens <= 0:
            return []
        return await super()._get_scheduled_flow_runs()

    async def _submit_scheduled_flow_runs(self, flow_run_response: "list[WorkerFlowRunResponse]") -> "list[FlowRun]":
        """Submit what is due, and come back for what is due soon: a flow run that waits would take a place."""
        now = datetime.datetime.now(datetime.UTC)
        due = []
        for entry in flow_run_response:
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
                self._wake.call_in(start.timestamp() - now.timestamp())
        return await super()._submit_scheduled_flow_runs(due)

    def _release_limit_slot(self, flow_run_id: UUID) -> None:
        full = self._limiter is not None and self._limiter.available_tokens <= 0
        super()._release_limit_slot(flow_run_id)
        if full:
            self._wake.call()

    # The worker's calls for each flow run: each costs the server as much as any of the flow run's own.

    async def _submit_run(self, flow_run: "FlowRun") -> None:
        """Submit a flow run; the deployment is read while the flow run becomes pending."""
        begin_submission()
        pending = asyncio.ensure_future(super()._propose_pending_state(flow_run))
        submission = self._submissions[flow_run.id] = _Submission(pending)
        try:
            await super()._submit_run(flow_run)
            if not submission.is_executing:
                # Where there is no such deployment any more, Prefect's own worker keeps its place.
                self._release_limit_slot(flow_run.id)
        except asyncio.CancelledError:
            if not submission.is_executing:
                with anyio.move_on_after(_LAST_WORD_S, shield=True):
                    await self._put_back(flow_run, pending)
            raise
        except httpx.HTTPError as error:
            # Prefect's own worker ends here.
            self._submitting_flow_run_ids.discard(flow_run.id)
            self._release_limit_slot(flow_run.id)
            await self._propose_crashed_state(flow_run, f"Its deployment cannot be read: {error!r}")
        finally:
            pending.cancel()
            del self._submissions[flow_run.id]

    async def _put_back(self, flow_run: "FlowRun", pending: asyncio.Task[bool]) -> None:
        """Leave a flow run to another worker, if this one has made it pending."""
        if await pending:
            await propose_state(self.client, Scheduled(), flow_run_id=flow_run.id)

    async def _propose_pending_state(self, flow_run: "FlowRun") -> bool:
        # If this worker stops meanwhile, it has to know what came of it.
        ready = await asyncio.shield(self._submissions[flow_run.id].pending)
        if ready:
            self._taken[flow_run.id] = flow_run.state_id
            while len(self._taken) > _MAX_TAKEN:
                del self._taken[next(iter(self._taken))]
        else:
            # Somebody else has it; or the server could not be asked, and it still waits.
            self._wake.call_in(_LOOK_AGAIN_S)
        return ready

    async def _propose_submitting_state(self, flow_run: "FlowRun") -> None:
        """Do without: it would be over before anybody sees it."""

    async def _give_worker_labels_to_flow_run(self, flow_run_id: UUID) -> None:
        """Label it, while it starts already."""
        self._tasks.start_soon(self._label, flow_run_id)

    async def _label(self, flow_run_id: UUID) -> None:
        try:
            await super()._give_worker_labels_to_flow_run(flow_run_id)
        except Exception as error:  # noqa: BLE001  # nothing depends on it
            self._logger.debug("Flow run %s got no labels: %r", flow_run_id, error)

    # How a flow run is executed.

    async def _submit_run_and_capture_errors(
        self, flow_run: "FlowRun", task_status: "anyio.abc.TaskStatus[int | Exception] | None" = None
    ) -> "BaseWorkerResult | Exception":
        """Execute a flow run, whose state is honest if the worker is stopped meanwhile."""
        if submission := self._submissions.get(flow_run.id):
            submission.is_executing = True
        self._executing.add(flow_run.id)
        try:
            return await super()._submit_run_and_capture_errors(flow_run, task_status)
        except asyncio.CancelledError:
            with anyio.move_on_after(_LAST_WORD_S, shield=True):
                await self._propose_crashed_state(flow_run, "The worker was stopped.")
            raise
        finally:
            self._executing.discard(flow_run.id)
            if flow_run.id in self._again:
                self._again.discard(flow_run.id)
                self._wake.call()

    async def run(
        self,
        flow_run: "FlowRun",
        configuration: "ProcessJobConfiguration",
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Execute a flow run and return how its process ended."""
        reason = why_not_forkable(configuration, self._forks.environment)
        if reason is not None:
            self.get_flow_run_logger(flow_run).debug("Starting a new interpreter: %s", reason)
            return await super().run(flow_run, configuration, task_status)
        return await self._run_warm(flow_run, configuration, task_status or anyio.TASK_STATUS_IGNORED)

    async def _run_warm(
        self,
        flow_run: "FlowRun",
        configuration: "ProcessJobConfiguration",
        task_status: anyio.abc.TaskStatus[int],
    ) -> ProcessWorkerResult:
        with contextlib.ExitStack() as stack:
            directory = configuration.working_dir or stack.enter_context(tempfile.TemporaryDirectory(suffix="prefect"))
            job = Job(
                environment=run_environment(configuration.env, flow_run, _entrypoint(configuration)),
                directory=Path(directory).resolve(),
                output=configuration.stream_output,
                nice=getattr(configuration, "nice", 0),
                arguments=[str(flow_run.id)],
            )
            execution: FlowRunExecutionResult | None = None

            async def execute(*, task_status: anyio.abc.TaskStatus[ProcessHandle]) -> None:
                nonlocal execution
                make_starter = functools.partial(WarmStarter, self._forks, job)
                execution = await self._executors.execute(flow_run, make_starter, task_status=task_status)

            async with anyio.create_task_group() as tasks:
                handle = await tasks.start(execute)
                task_status.started(handle.pid)
        if execution is None or execution.status_code is None:
            raise RuntimeError("The flow run's process was not started.")
        return ProcessWorkerResult(status_code=execution.status_code, identifier=str(execution.handle.pid))


def _entrypoint(configuration: "ProcessJobConfiguration") -> str | None:
    """Return where the flow is, if that is a module and nothing has to be pulled: the engine need not ask then."""
    deployment: Any = configuration._related_objects.get("deployment")
    if deployment is None or deployment.pull_steps or not deployment.entrypoint or ":" in deployment.entrypoint:
        return None
    return deployment.entrypoint
