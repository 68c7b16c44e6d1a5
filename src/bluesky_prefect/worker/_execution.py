"""The execution of one flow run in a forked process."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.abc
from prefect.utilities.processutils import sanitize_subprocess_env

from bluesky_prefect.worker._job_variables import WarmJobConfiguration
from bluesky_prefect.worker._prefect_internals import engine_environment
from bluesky_prefect.worker.forkserver._child_handle import ChildHandle
from bluesky_prefect.worker.forkserver._pool import ForkServerPool
from bluesky_prefect.worker.forkserver._protocol import Job

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State


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
        True if it was to be cancelled.
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

    async def run(self, task_status: anyio.abc.TaskStatus[int]) -> tuple[int, int]:
        """Run the flow; return the process id and the exit code. If this is cancelled, the process is stopped first."""
        with self._job() as job:
            child = self._child = await self._forks.fork()
            task_status.started(child.pid)
            if self.cancelled:
                child.abandon()
                return child.pid, 0
            return child.pid, await child.run(job)

    async def cancel(self) -> None:
        """End the flow's process as a cancelled one."""
        if not self.cancelled:
            self.cancelled = True
            if self._child is not None:
                await self._child.cancel()

    async def run_hooks(self, state: "State[Any]") -> None:
        """Run what the flow wants done in a state, in a process of its own."""
        with self._job(hooks=state.model_dump_json(exclude={"data"}), flow_run=self.flow_run.model_dump_json()) as job:
            await (await self._forks.fork()).run(job)

    @contextlib.contextmanager
    def _job(self, **hooks: str) -> Iterator[Job]:
        """Describe a job, with a directory as long as it lasts."""
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
