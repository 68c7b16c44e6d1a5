"""The flow runs that a worker executes in forked processes."""

import asyncio
import contextlib
import datetime
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio.abc
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import Abort
from prefect.states import Cancelled, Cancelling, Crashed, Scheduled
from prefect.utilities.engine import propose_state
from prefect.utilities.processutils import sanitize_subprocess_env

from bluesky_prefect.worker._client import retry_transient
from bluesky_prefect.worker._flow_runs import FlowRunInHand, FlowRunsInHand, Phase
from bluesky_prefect.worker._job_variables import WarmJobConfiguration
from bluesky_prefect.worker._prefect_internals import engine_environment
from bluesky_prefect.worker.forkserver._child_handle import ChildHandle
from bluesky_prefect.worker.forkserver._pool import ForkServerPool
from bluesky_prefect.worker.forkserver._protocol import Job

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State

logger = logging.getLogger(f"prefect.{__name__}")

# How long hooks may take; Prefect's own process worker waits for ever.
HOOKS_TIMEOUT_S = 300.0
# How long the last word on a flow run may take when the worker stops.
LAST_WORD_S = 5.0
_CANCELLED = "Flow run was cancelled."


@dataclass(eq=False)
class Execution:
    """A flow run's processes: its own, once it has one, and that of its hooks."""

    flow_run: "FlowRun"
    configuration: WarmJobConfiguration
    forks: ForkServerPool
    child: ChildHandle | None = None

    @property
    def pid(self) -> str:
        """The flow's process, as Prefect notes it, once it has one."""
        return str(self.child.pid) if self.child else ""

    async def fork(self) -> ChildHandle:
        """Return the flow's process, which waits for its job."""
        self.child = await self.forks.fork()
        return self.child

    async def try_hooks(self, state: "State[Any]") -> None:
        """Run what the flow wants done in a state, in a process of its own; what goes wrong there is logged."""
        hooks = {"hooks": state.model_dump_json(exclude={"data"}), "flow_run": self.flow_run.model_dump_json()}
        try:
            with self.job(**hooks) as job:
                child = await self.forks.fork()
                with anyio.fail_after(HOOKS_TIMEOUT_S):
                    await child.run(job)
        except Exception:
            logger.exception("The hooks of flow run %s did not run to their end.", self.flow_run.id)

    @contextlib.contextmanager
    def job(self, **hooks: str) -> Iterator[Job]:
        """Describe a job, with a directory that is there as long as it lasts."""
        configuration = self.configuration
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


class Executor:
    """Execute flow runs in forked processes, and set the states that nobody in those processes can set.

    Parameters
    ----------
    in_hand : FlowRunsInHand
        The worker's flow runs.
    client : callable
        Return the worker's client.
    """

    def __init__(self, in_hand: FlowRunsInHand, client: "Callable[[], PrefectClient]") -> None:
        self._in_hand = in_hand
        self._client = client

    async def run(self, one: FlowRunInHand, execution: Execution, task_status: anyio.abc.TaskStatus[int]) -> int:
        """Execute a flow run and return its exit code; a cancelled one is settled then."""
        try:
            with execution.job() as job:
                child = await execution.fork()
                task_status.started(child.pid)
                if one.cancelled:
                    child.abandon()
                code = 0 if one.cancelled else await child.run(job)
            if one.cancelled or (code != 0 and await self._is_cancelling(one.id)):
                await self._settle(one, execution)
            elif code != 0:
                one.phase = Phase.CRASHED
        except Exception:
            if one.cancelled:
                await self._settle(one, execution)
            raise
        return code

    async def cancel(self, flow_run_id: UUID, at: datetime.datetime | None = None) -> None:
        """Cancel a flow run, if this worker executes it, or has and it waits for its next attempt."""
        one = self._in_hand.cancel(flow_run_id, at)
        if one is None or one.execution is None:
            return
        if one.phase is Phase.CANCELLING:
            if one.execution.child is not None:
                await one.execution.child.cancel()
            return
        if await self._is_cancelling(flow_run_id, one.execution.pid) and one.phase is Phase.ENDED:
            try:
                await self._settle(one, one.execution)
            finally:
                self._in_hand.end(one)

    async def cancel_as_asked(self) -> None:
        """Ask Prefect which flow runs are to be cancelled, and cancel them."""
        ids = [one.id for one in self._in_hand.all_in(Phase.EXECUTING, Phase.ENDED)]
        if not ids:
            return
        state = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLING]))
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=ids), state=state)
        try:
            found = await self._client().read_flow_runs(flow_run_filter=wanted)
        except Exception as error:  # noqa: BLE001  # it is asked again
            logger.debug("Asking for cancelled flow runs failed: %r", error)
            return
        await asyncio.gather(*(self.cancel(flow_run.id) for flow_run in found))

    async def say_last_word(self, one: FlowRunInHand) -> None:
        """Leave a flow run in a state that says what has become of it, since the worker stops."""
        with anyio.move_on_after(LAST_WORD_S, shield=True), contextlib.suppress(Exception, Abort):
            if one.proposal is not None and (await one.proposal).status != SetStateStatus.ACCEPT:
                return
            if one.cancelled and one.execution is not None:
                await self._settle(one, one.execution, with_hooks=False)
            elif one.phase is Phase.PENDING or (one.execution is not None and one.execution.child is None):
                await propose_state(self._client(), Scheduled(), one.id)
            else:
                await propose_state(self._client(), Crashed(message="The worker was stopped."), one.id)

    async def _is_cancelling(self, flow_run_id: UUID, pid: str | None = None) -> bool:
        """Tell whether a flow run is to be cancelled; if a process is given, unless it has another one since."""
        try:
            flow_run = await retry_transient(lambda: self._client().read_flow_run(flow_run_id))
        except Exception as error:  # noqa: BLE001  # then it has crashed
            logger.debug("Flow run %s cannot be read: %r", flow_run_id, error)
            return False
        if pid is not None and flow_run.infrastructure_pid != pid:
            return False  # another worker has it since
        return flow_run.state is not None and flow_run.state.is_cancelling()

    async def _settle(self, one: FlowRunInHand, execution: Execution, *, with_hooks: bool = True) -> None:
        """Run the hooks of a cancelled flow run and set its state, unless it had ended before it was stopped."""
        one.phase = Phase.SETTLING
        try:
            flow_run = await retry_transient(lambda: self._client().read_flow_run(one.id))
            if flow_run.state is not None and flow_run.state.is_final() and not flow_run.state.is_crashed():
                return
            if with_hooks:
                await execution.try_hooks(Cancelling(message=_CANCELLED))
            await self._client().set_flow_run_state(one.id, Cancelled(message=_CANCELLED), force=True)
        except Exception:
            logger.exception("Flow run %s cannot be cancelled.", one.id)
