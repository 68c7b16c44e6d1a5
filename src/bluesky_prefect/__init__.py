"""A Bluesky RunEngine callback that starts Prefect flows."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bluesky_prefect._version import __version__

if TYPE_CHECKING:
    from bluesky_prefect.callback import PrefectCallback
    from bluesky_prefect.exceptions import BlueskyPrefectError
    from bluesky_prefect.outbox import Outbox
    from bluesky_prefect.run import Run
    from bluesky_prefect.settings import Settings, get_settings
    from bluesky_prefect.workflow import Workflow, always, load_workflows, succeeded

__all__ = [
    "BlueskyPrefectError",
    "Outbox",
    "PrefectCallback",
    "Run",
    "Settings",
    "Workflow",
    "__version__",
    "always",
    "get_settings",
    "load_workflows",
    "succeeded",
]

# Each name is imported when it is first asked for: a beamline's start-up pays for what it uses.
_HOMES = {
    "BlueskyPrefectError": "exceptions",
    "Outbox": "outbox",
    "PrefectCallback": "callback",
    "Run": "run",
    "Settings": "settings",
    "Workflow": "workflow",
    "always": "workflow",
    "get_settings": "settings",
    "load_workflows": "workflow",
    "succeeded": "workflow",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
