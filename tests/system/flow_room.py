"""What a test needs to run flows in its own process, against a real Prefect and a real Tiled server."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
    temporary_settings,
)

from bluesky_prefect.core import get_settings
from bluesky_prefect.stack import StackInfo
from tests.services.outside import Outside, cat_facts, open_meteo
from tests.services.prefect_process import prefect_settings, user_of


class Room:
    """Servers, folders and settings.

    Parameters
    ----------
    stack : StackInfo
        Where Prefect and Tiled are.
    folder : Path
        For exported files and Prefect's cache.
    """

    def __init__(self, stack: StackInfo, folder: Path) -> None:
        self.stack = stack
        self.output = folder / "output"
        self.state = folder / "state"
        self.cache = folder / "cache"
        self.weather: Outside = open_meteo()
        self.cats: Outside = cat_facts()

    def environment(self) -> dict[str, str]:
        """Return what a process needs to run the flows as this one does."""
        return {
            "PREFECT_API_URL": self.stack.prefect_api_url,
            "PREFECT_API_AUTH_STRING": user_of(self.stack),
            "PREFECT_LOCAL_STORAGE_PATH": str(self.cache),
            "BLUESKY_PREFECT_TILED_URI": self.stack.tiled_uri,
            "TILED_API_KEY": self.stack.tiled_api_key.get_secret_value(),
            "BLUESKY_PREFECT_OUTPUT_DIRECTORY": str(self.output),
            "BLUESKY_PREFECT_STATE_DIRECTORY": str(self.state),
            "BLUESKY_PREFECT_WEATHER_ARCHIVE_URL": f"{self.weather.url}/v1/archive",
            "BLUESKY_PREFECT_WEATHER_FORECAST_URL": f"{self.weather.url}/v1/forecast",
            "BLUESKY_PREFECT_CAT_FACT_URL": f"{self.cats.url}/fact",
            # Time to answer, and to be asked three times, on a busy machine.
            "BLUESKY_PREFECT_WEATHER_TIMEOUT_S": "60",
            "BLUESKY_PREFECT_CAT_FACT_TIMEOUT_S": "60",
        }

    def files(self, folder: str | Path) -> dict[str, bytes]:
        """Return the exported files of a run by name."""
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if not path.name.startswith(".")}

    @cached_property
    def tiled(self) -> Any:
        """A client of Tiled as any user has it."""
        from tiled.client import from_uri

        return from_uri(self.stack.tiled_uri, api_key=self.stack.tiled_api_key.get_secret_value())

    def close(self) -> None:
        APILogHandler().flush()  # while there is a server to take them
        self.tiled.context.close()
        self.weather.close()
        self.cats.close()


@contextmanager
def room_for(stack: StackInfo, folder: Path) -> Iterator[Room]:
    """Make this process one that runs flows, until the end of the block."""
    room = Room(stack, folder)
    with (
        settings_from({name: value for name, value in room.environment().items() if name.startswith(("BLU", "TIL"))}),
        temporary_settings(
            {
                **prefect_settings(stack),
                PREFECT_LOCAL_STORAGE_PATH: room.cache,
                PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore",  # a task is called by itself, too
            }
        ),
    ):
        try:
            yield room
        finally:
            room.close()


@contextmanager
def settings_from(environment: dict[str, str | None]) -> Iterator[None]:
    """Have the settings read from these variables; None unsets one."""
    before = {name: os.environ.get(name) for name in environment}
    _put(environment)
    try:
        yield
    finally:
        _put(before)


def _put(environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    get_settings.cache_clear()
