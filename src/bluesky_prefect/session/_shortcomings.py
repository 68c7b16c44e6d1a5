"""Shortcomings of a beamline's configuration: a session tells of each in a line, and starts all the same."""

import os
import tempfile
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bluesky_prefect.core import (
    ConfigurationError,
    Settings,
    WorkflowList,
    get_settings,
    private_directory,
    setting_problems,
)

if TYPE_CHECKING:
    from bluesky_prefect.callback import PrefectCallback

_WORKFLOWS = "BLUESKY_PREFECT_WORKFLOWS"
_NO_LIST = "BLUESKY_PREFECT_WORKFLOWS_cannot_be_used:workflows"
_NO_FLOWS = (
    "Scans run and are recorded, but this session starts no flows. Correct it and restart the session; what was missed "
    "is started with: bluesky-prefect reconcile --submit"
)
SCAN_IDS_BEGIN = (
    "Scan ids begin at 1: Tiled, which knows the last one, does not tell it. Ids may be taken twice. To go on after "
    "scan 1234: RE.md['scan_id'] = 1234"
)


def drop_unusable_settings(
    tell: Callable[[str], None], environment: MutableMapping[str, str] = os.environ
) -> WorkflowList | None:
    """Take settings that cannot be used out of the environment: their defaults hold here and in child processes.

    There is no default for the list of workflows: without it nothing is started, nor by child processes.

    Returns an empty list of workflows if the setting of that is among them: its default would start flows that nobody
    has asked for.
    """
    get_settings.cache_clear()
    try:
        Settings()
    except ValidationError as error:
        problems = setting_problems(error)
    else:
        return None
    for name, problem in problems.items():
        for variable in [one for one in environment if one.upper() == name]:
            if name == _WORKFLOWS:
                # Child processes refuse it, too: no other list takes its place.
                environment[variable] = _NO_LIST
            else:
                del environment[variable]
        consequence = _NO_FLOWS if name == _WORKFLOWS else "The default is used instead."
        tell(f"{name} cannot be used: {problem}. {consequence}")
    return WorkflowList.of_none() if _WORKFLOWS in problems else None


def has_usable_directory(settings: Settings, tell: Callable[[str], None]) -> bool:
    """Return whether the state directory takes files; else tell that runs are kept in memory."""
    try:
        if not settings.state_directory.exists():
            private_directory(settings.state_directory)
        with tempfile.TemporaryFile(dir=settings.state_directory):
            return True
    except OSError as error:
        tell(
            f"The state directory {settings.state_directory} cannot be written ({error.strerror or error}): runs are "
            "kept in memory, and lost with this session. Set BLUESKY_PREFECT_STATE_DIRECTORY to one that you own."
        )
        return False


def subscribed_callback(workflows: Any, settings: Settings, tell: Callable[[str], None]) -> "PrefectCallback":
    """Return the callback that starts the workflows; one that starts nothing if they cannot be had."""
    from bluesky_prefect.callback import PrefectCallback

    try:
        return PrefectCallback(workflows, settings=settings)
    except ConfigurationError as error:
        tell(f"No workflows: {error} {_NO_FLOWS}")
        return PrefectCallback(WorkflowList.of_none(), settings=settings.model_copy(update={"workflows": None}))
