"""Job variables of a work pool of this type, and of its deployments."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefect.workers.process import ProcessJobConfiguration, ProcessVariables
from pydantic import Field, PrivateAttr

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

# What this project's flows, and the engine that runs them, import in the end. What is not installed is left out.
PRELOAD = [
    "prefect.engine",
    "prefect.main",
    "prefect.task_engine",
    "prefect.task_runners",
    "prefect.deployments.steps.core",
    "prefect.utilities.visualization",
    "anyio._backends._asyncio",
    "anyio.streams.memory",
    "anyio.streams.tls",
    "fastapi.encoders",
    "rich._emoji_codes",
    "h5py",
    "numpy.random",
    "pyarrow",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "tiled.client",
    "tiled.client.array",
    "tiled.client.dataframe",
    "bluesky_prefect.flows",
    "bluesky_prefect.flows.export_parts._plots",
    "bluesky_prefect.flows.export_parts._nexus",
    "bluesky_prefect.tiled_api._results",
    "bluesky_prefect.reconciliation._flow",
]
# Told of what flows could only fail for, in this package's case.
CHECK = "bluesky_prefect.tiled_api:flows_problem"
NICE = 5
# What an interpreter, or a library that flow runs find loaded, reads when it starts and never again.
_READ_AT_START = ("PYTHON", "LD_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "NUMBA_", "MALLOC_", "MPL")
# What a child takes over after all.
_TAKEN_OVER = {"PYTHONPATH", "PYTHONSAFEPATH"}
_INSTALLS = "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES"


class WarmJobConfiguration(ProcessJobConfiguration):
    """A process worker's job, with a priority."""

    nice: int = Field(default=NICE)

    _has_own_command: bool = PrivateAttr(default=False)
    _entrypoint: str | None = PrivateAttr(default=None)

    @property
    def entrypoint(self) -> str | None:
        """The flow's module and name, if nothing has to be pulled: the engine need not ask then."""
        return self._entrypoint

    def prepare_for_flow_run(
        self, flow_run: "FlowRun", deployment: "DeploymentResponse | None" = None, *args: Any, **kwargs: Any
    ) -> None:
        """Fill in what depends on the flow run."""
        self._has_own_command = self.command is not None
        if deployment is not None and not deployment.pull_steps and ":" not in (deployment.entrypoint or ":"):
            self._entrypoint = deployment.entrypoint
        super().prepare_for_flow_run(flow_run, deployment, *args, **kwargs)

    def why_not_forkable(self, environment: Mapping[str, str]) -> str | None:
        """Return why it needs an interpreter of its own, or None if it can be forked from one with this environment."""
        if self._has_own_command:
            return "the job has a command of its own"
        if (self.env.get(_INSTALLS) or "").lower() in ("1", "true", "yes", "on", "t", "y"):
            return f"{_INSTALLS} is set"
        for name in sorted({*self.env, *environment} - _TAKEN_OVER):
            if name.startswith(_READ_AT_START) and self.env.get(name) != environment.get(name):
                return f"{name} is read when an interpreter starts"
        return None


class WarmVariables(ProcessVariables):
    """A process worker's variables, with the modules that are imported beforehand."""

    preload: list[str] = Field(
        default=PRELOAD,
        title="Modules to import beforehand",
        description=(
            "What flow runs import, so that they find it there already. It counts for all flow runs of the work "
            "pool. A module that starts a thread when it is imported, or is not installed, is left out."
        ),
    )
    check: str | None = Field(
        default=CHECK,
        title="Check before flow runs are taken",
        description=(
            "A function, as module:name, that returns why flow runs of this work pool could only fail, or nothing. "
            "While it returns a reason, a worker that starts takes no flow run. It is called without arguments, in a "
            "process like that of a flow run. By default it looks at Tiled, if the environment names one; empty, "
            "nothing is looked at."
        ),
    )
    nice: int = Field(
        default=NICE,
        ge=0,
        le=19,
        title="Lower priority",
        description="By how much the priority of flow runs is below the worker's, from 0 to 19.",
    )


def preload_of(base_job_template: dict[str, Any]) -> list[str]:
    """Return the modules that a work pool's template names."""
    named = _variables(base_job_template).get("preload", {}).get("default")
    return [str(module) for module in named] if isinstance(named, list) else PRELOAD


def check_of(base_job_template: dict[str, Any]) -> str:
    """Return the check that a work pool's template names; "" for none. A pool that is older has the one of today."""
    return str(_variables(base_job_template).get("check", {"default": CHECK}).get("default") or "")


def _variables(base_job_template: dict[str, Any]) -> dict[str, Any]:
    return base_job_template.get("variables", {}).get("properties", {})
