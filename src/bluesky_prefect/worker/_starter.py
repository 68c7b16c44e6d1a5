"""Start of a forked process, and of hooks in one, for Prefect's executor of flow runs."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio.abc
from prefect.runner._control_channel import ControlChannel
from prefect.runner._process_manager import ProcessHandle, create_isolated_termination_scope
from prefect.utilities.processutils import sanitize_subprocess_env

from bluesky_prefect.worker.forkserver._pool import ForkServerPool
from bluesky_prefect.worker.forkserver._protocol import Job

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State


class WarmStarter:
    """Start a flow run in a forked process, and run its hooks in others.

    Parameters
    ----------
    forks : ForkServerPool
        Where processes come from.
    job : Job
        What the flow run's process is to do.
    control_channel : ControlChannel
        By which Prefect tells the engine why it is stopped, and the engine how the flow run ended.
    """

    def __init__(self, forks: ForkServerPool, job: Job, control_channel: ControlChannel) -> None:
        self._forks = forks
        self._job = job
        self._control_channel = control_channel

    async def start(
        self,
        flow_run: "FlowRun",
        task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Start the flow run, tell its process, and wait until that has ended."""
        child = await self._forks.fork()
        scope = create_isolated_termination_scope(child.pid)
        # Prefect asks no more of a process than these two attributes.
        handle = ProcessHandle(child, termination_scope=scope)  # pyright: ignore[reportArgumentType]
        control = self._control(flow_run)
        job = self._job.model_copy(update={"environment": {**self._job.environment, **control}})
        task_status.started(handle)
        await child.run(job)

    async def run_cancellation_hooks(self, flow_run: "FlowRun", state: "State") -> None:
        """Run what the flow wants done when it is cancelled."""
        if state.is_cancelling():
            await self._run_hooks(flow_run, state)

    async def run_crashed_hooks(self, flow_run: "FlowRun", state: "State") -> None:
        """Run what the flow wants done when it has crashed."""
        if state.is_crashed():
            await self._run_hooks(flow_run, state)

    async def _run_hooks(self, flow_run: "FlowRun", state: "State[Any]") -> None:
        child = await self._forks.fork()
        hooks = state.model_dump_json(exclude={"data"})
        await child.run(self._job.model_copy(update={"hooks": hooks, "flow_run": flow_run.model_dump_json()}))

    def _control(self, flow_run: "FlowRun") -> dict[str, str]:
        try:
            port, token = self._control_channel.register(flow_run.id)
        except RuntimeError:
            # No port could be had: flow runs are then stopped without being told why, as by the process worker.
            return {}
        return {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}


def run_environment(
    configured: Mapping[str, str | None], flow_run: "FlowRun", entrypoint: str | None
) -> dict[str, str]:
    """Return all environment variables of a flow run's process.

    Parameters
    ----------
    configured : mapping
        Those of its job.
    flow_run : FlowRun
        The flow run.
    entrypoint : str, optional
        Where its flow is, if nothing has to be fetched for it.
    """
    environment = {
        **os.environ,
        **configured,
        "PREFECT__FLOW_RUN_ID": str(flow_run.id),
        # The worker runs them: it knows how the process ended.
        "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
    }
    if entrypoint is not None:
        environment["PREFECT__FLOW_ENTRYPOINT"] = entrypoint
    return sanitize_subprocess_env(environment)
