"""The flow runs that a worker executes in forked processes."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio.abc
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Cancelling, Crashed, Scheduled
from prefect.utilities.processutils import sanitize_subprocess_env

from bluesky_prefect.worker._client import retry_transient
from bluesky_prefect.worker._job_variables import WarmJobConfiguration
from bluesky_prefect.worker._prefect_internals import engine_environment
from bluesky_prefect.worker.forkserver._child_handle import ChildHandle
from bluesky_prefect.worker.forkserver._pool import ForkServerPool
from bluesky_prefect.worker.forkserver._protocol import Job

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State

logger = logging.getLogger(f"prefect.{__name__}")

STOPPED = "The worker was stopped."
_CANCELLED = "Flow run was cancelled."


class Execution:
    """One flow run in a forked process, and its hooks in others.

    Parameters
    ----------
    flow_run : FlowRun
        The flow run.
    configuration : WarmJobConfiguration
        Its job.
    forks : ForkServerPool
        Where processes come from.

    Attributes
    ----------
    cancelled : bool
        True if it is to be cancelled.
    """

    def __init__(self, flow_run: "FlowRun", configuration: WarmJobConfiguration, forks: ForkServerPool) -> None:
        self.flow_run = flow_run
        self.cancelled = False
        self._configuration = configuration
        self._forks = forks
        self._child: ChildHandle | None = None

    @property
    def pid(self) -> int | None:
        """The flow's process, once it has one."""
        return self._child and self._child.pid

    async def run(self, task_status: anyio.abc.TaskStatus[int]) -> int:
        """Run the flow and return the exit code. If this is cancelled, the process is stopped first."""
        with self._job() as job:
            child = self._child = await self._forks.fork()
            task_status.started(child.pid)
            if self.cancelled:
                child.abandon()
                return 0
            return await child.run(job)

    async def cancel(self) -> None:
        """End the flow's process as a cancelled one."""
        if not self.cancelled:
            self.cancelled = True
            if self._child is not None:
                await self._child.cancel()

    def last_state(self) -> "State[Any]":
        """Return the state to leave the flow run in when its process is gone."""
        if self.cancelled:
            return Cancelled(message=_CANCELLED)
        return Scheduled() if self._child is None else Crashed(message=STOPPED)

    async def try_hooks(self, state: "State[Any]") -> None:
        """Run what the flow wants done in a state, in a process of its own; what goes wrong there is logged."""
        hooks = {"hooks": state.model_dump_json(exclude={"data"}), "flow_run": self.flow_run.model_dump_json()}
        try:
            with self._job(**hooks) as job:
                await (await self._forks.fork()).run(job)
        except Exception:
            logger.exception("The hooks of flow run %s did not run.", self.flow_run.id)

    @contextlib.contextmanager
    def _job(self, **hooks: str) -> Iterator[Job]:
        """Describe a job, with a directory that is there as long as it lasts."""
        configuration = self._configuration
        environment = {**os.environ, **configuration.env, **engine_environment(configuration.entrypoint)}
        with contextlib.ExitStack() as stack:
            directory = configuration.working_dir or stack.enter_context(tempfile.TemporaryDirectory(suffix="prefect"))
            yield Job(
                environment=sanitize_subprocess_env(environment),
                directory=Path(directory).resolve(),
                output=configuration.stream_output,
                nice=configuration.nice,
                arguments=[str(self.flow_run.id)],
                **hooks,
            )


class Executions:
    """All flow runs that a worker executes in forked processes, and how they end.

    Parameters
    ----------
    client : callable
        Return the worker's client.
    """

    def __init__(self, client: "Callable[[], PrefectClient]") -> None:
        self._client = client
        self._under_way: dict[UUID, Execution] = {}
        self._crashed: dict[UUID, Execution] = {}

    async def run(self, execution: Execution, task_status: anyio.abc.TaskStatus[int]) -> int:
        """Execute a flow run and return its exit code; a cancelled one is settled then."""
        flow_run_id = execution.flow_run.id
        self._under_way[flow_run_id] = execution
        try:
            code = await execution.run(task_status)
            if execution.cancelled or (code != 0 and await self._is_cancelling(flow_run_id)):
                execution.cancelled = True
                await self._settle(execution)
            elif code != 0:
                self._crashed[flow_run_id] = execution
            return code
        except Exception:
            if execution.cancelled:
                await self._settle(execution)
            raise
        finally:
            del self._under_way[flow_run_id]

    def crashed(self, flow_run_id: UUID) -> Execution | None:
        """Return, once, the execution of a flow run that has crashed."""
        return self._crashed.pop(flow_run_id, None)

    async def cancel(self, flow_run_id: UUID) -> None:
        """Cancel a flow run, if this worker executes it."""
        if execution := self._under_way.get(flow_run_id):
            await execution.cancel()

    async def cancel_process(self, pid: str) -> bool:
        """Cancel the flow run in a process, and return whether there is one."""
        for execution in list(self._under_way.values()):
            if str(execution.pid) == pid:
                await execution.cancel()
                return True
        return False

    async def cancel_as_asked(self) -> None:
        """Ask Prefect which flow runs are to be cancelled, and cancel them."""
        if not self._under_way:
            return
        state = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLING]))
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(self._under_way)), state=state)
        try:
            found = await self._client().read_flow_runs(flow_run_filter=wanted)
        except Exception as error:  # noqa: BLE001  # it is asked again
            logger.debug("Asking for cancelled flow runs failed: %r", error)
            return
        async with anyio.create_task_group() as tasks:
            for flow_run in found:
                tasks.start_soon(self.cancel, flow_run.id)

    async def _is_cancelling(self, flow_run_id: UUID) -> bool:
        """Tell whether a flow run was to be cancelled before this worker had a process for it."""
        try:
            flow_run = await retry_transient(lambda: self._client().read_flow_run(flow_run_id))
        except Exception as error:  # noqa: BLE001  # then it has crashed
            logger.debug("Flow run %s cannot be read: %r", flow_run_id, error)
            return False
        return flow_run.state is not None and flow_run.state.is_cancelling()

    async def _settle(self, execution: Execution) -> None:
        """Run the hooks of a cancelled flow run and set its state, unless it had ended before it was stopped."""
        flow_run_id, client = execution.flow_run.id, self._client()
        try:
            flow_run = await retry_transient(lambda: client.read_flow_run(flow_run_id))
            if flow_run.state is not None and flow_run.state.is_final() and not flow_run.state.is_crashed():
                return
            await execution.try_hooks(Cancelling(message=_CANCELLED))
            await client.set_flow_run_state(flow_run_id, execution.last_state(), force=True)
        except Exception:
            logger.exception("Flow run %s cannot be cancelled.", flow_run_id)
