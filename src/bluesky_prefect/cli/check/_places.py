"""The two servers: where they are, and what said so."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from bluesky_prefect.core import ConfigurationError, Settings, get_settings, prefect_url, without_secrets
from bluesky_prefect.stack import START_COMMAND, LocalStack, start_or_check, use_services
from bluesky_prefect.tiled_api import server_address

_STACK = "the local stack"


@dataclass(frozen=True)
class Place:
    """A server.

    Attributes
    ----------
    url : str
        Its address, which may hold secrets; empty if nothing says where it is, or a profile is of no address.
    said_by : str
        What says so; empty if nothing does.
    remedy : str
        What helps if nobody answers there.
    """

    url: str
    said_by: str
    remedy: str

    def __str__(self) -> str:
        """Return where it is and what says so, without secrets."""
        return f"{without_secrets(self.url) or 'no address'} (from {self.said_by})"


@dataclass(frozen=True)
class Places:
    """Both servers, and the settings that were found with them."""

    settings: Settings
    prefect: Place
    tiled: Place

    @property
    def is_stack(self) -> bool:
        """True if Prefect is the local stack's."""
        return self.prefect.said_by == _STACK


def find_places() -> Places:
    """Find the servers as every other command does, and note what said where they are.

    Raises
    ------
    ConfigurationError
        If a Tiled profile is named that does not exist.
    """
    before, given = dict(os.environ), get_settings()
    settings = use_services()
    is_up = LocalStack(settings).find() is not None
    return Places(settings, _prefect(before, is_up), _tiled(given, settings))


def _prefect(before: Mapping[str, str], is_up: bool) -> Place:
    url = prefect_url()
    if before.get("PREFECT_API_URL"):
        said_by = "PREFECT_API_URL"
    elif prefect_url(before):
        said_by = "Prefect's profile"
    else:
        said_by = _STACK if is_up else f"{_STACK}, which is not up"
    return Place(url, said_by if url else "", _remedy(url, said_by))


def _tiled(given: Settings, settings: Settings) -> Place:
    if given.tiled_uri is not None:
        said_by = "BLUESKY_PREFECT_TILED_URI"
    elif given.tiled_profile is not None:
        said_by = f"BLUESKY_PREFECT_TILED_PROFILE={given.tiled_profile}"
    elif settings.tiled_uri is not None:
        said_by = _STACK
    else:
        return Place("", "", f"start with: {START_COMMAND}; or set BLUESKY_PREFECT_TILED_URI")
    try:
        url = server_address(settings)
    except ConfigurationError as error:
        return Place("", said_by, str(error))
    return Place(url, said_by, _remedy(url, said_by))


def _remedy(url: str, said_by: str) -> str:
    """Return what helps where nobody answers: to start the local stack, where it may be meant, and to look again."""
    variable = said_by.partition("=")[0]
    start = start_or_check(without_secrets(url), variable)
    return start if said_by.startswith(_STACK) or START_COMMAND not in start else f"{start}; or check {variable}"
