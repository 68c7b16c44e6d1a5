"""A Bluesky RunEngine callback that starts Prefect flows."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bluesky_prefect._version import __version__

if TYPE_CHECKING:
    from bluesky_prefect.callback import PrefectCallback
    from bluesky_prefect.exceptions import BlueskyPrefectError, DoNotRerun, FlowFailed, FlowTimeout
    from bluesky_prefect.outbox import Outbox
    from bluesky_prefect.plan_stubs import FlowResult, wait_for_flow
    from bluesky_prefect.prompt import load_ipython_extension, unload_ipython_extension
    from bluesky_prefect.run import Run
    from bluesky_prefect.settings import Settings, get_settings
    from bluesky_prefect.watch import WorkflowStatus, list_flow_runs, wait_for_flow_runs
    from bluesky_prefect.workflow import Workflow, always, succeeded
    from bluesky_prefect.workflow_list import WorkflowList, load_workflows

__all__ = [
    "BlueskyPrefectError",
    "DoNotRerun",
    "FlowFailed",
    "FlowResult",
    "FlowTimeout",
    "Outbox",
    "PrefectCallback",
    "Run",
    "Settings",
    "Workflow",
    "WorkflowList",
    "WorkflowStatus",
    "__version__",
    "always",
    "get_settings",
    "list_flow_runs",
    "load_ipython_extension",
    "load_workflows",
    "succeeded",
    "unload_ipython_extension",
    "wait_for_flow",
    "wait_for_flow_runs",
]

# Each name is imported when it is first asked for: a beamline's start-up pays for what it uses.
_HOMES = {
    "BlueskyPrefectError": "exceptions",
    "DoNotRerun": "exceptions",
    "FlowFailed": "exceptions",
    "FlowResult": "plan_stubs",
    "FlowTimeout": "exceptions",
    "Outbox": "outbox",
    "PrefectCallback": "callback",
    "Run": "run",
    "Settings": "settings",
    "Workflow": "workflow",
    "WorkflowList": "workflow_list",
    "WorkflowStatus": "watch",
    "always": "workflow",
    "get_settings": "settings",
    "list_flow_runs": "watch",
    "load_ipython_extension": "prompt",
    "load_workflows": "workflow_list",
    "succeeded": "workflow",
    "unload_ipython_extension": "prompt",
    "wait_for_flow": "plan_stubs",
    "wait_for_flow_runs": "watch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
