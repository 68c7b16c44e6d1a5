"""The courier, as seen by those who start it."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from bluesky_prefect.core import Settings
from bluesky_prefect.courier import running_courier
from bluesky_prefect.stack._worker import settings_environment

# What tells it of its servers, and of this package's settings.
_ITS = ("BLUESKY_PREFECT_", "PREFECT_", "TILED_")


@dataclass(frozen=True)
class Courier:
    """The courier of a state directory; its servers are those that `variables` name."""

    settings: Settings
    variables: Mapping[str, str]

    name = "courier"
    title = "Courier"
    port = None
    # A scan beside it goes first.
    niceness = 5
    umask = -1

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-P", "-m", "bluesky_prefect", "courier"]

    def environment(self) -> dict[str, str]:
        """Return what it needs to know of its servers, and the settings."""
        return {**settings_environment(self.settings), **self.variables}

    def prepare(self) -> None:
        """Do nothing: it makes what it needs."""

    def is_ready(self) -> bool:
        """Tell whether it is at work."""
        return running_courier(self.settings) is not None


def variables_of_this_process() -> dict[str, str]:
    """Return this process's own variables of servers and settings, for a courier that is to use the same."""
    return {name: value for name, value in os.environ.items() if name.startswith(_ITS)}
