"""Servers of a beamline's own, which the settings name in the place of a local stack."""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

from bluesky_prefect.core import (
    Settings,
    basic_auth,
    prefect_authorization,
    prefect_url,
    user_in_url,
    without_secrets,
    without_user,
)
from bluesky_prefect.stack._absence import SETTINGS, is_at, is_of_stack, tiled_service
from bluesky_prefect.stack._discovery import Service, prefect_service
from bluesky_prefect.stack._http import request_json
from bluesky_prefect.stack._info import StackState


@dataclass(frozen=True)
class OwnServer:
    """A server that a setting names, whether it answers, and which setting."""

    service: Service
    setting: str


def own_servers(settings: Settings, state: StackState) -> dict[str, OwnServer]:
    """Return both servers, asked, if a setting names one that is not the local stack's; else nothing.

    A stack whose servers run is what this state directory is about, whatever the settings name.
    """
    if any(one.port and one.is_alive() for one in state.processes.values()):
        return {}
    url, tiled = prefect_url(), without_secrets(settings.tiled_uri) if settings.tiled_uri else ""
    is_own = (
        # What a session takes for the address of a stack that was never started is nobody's server.
        bool(url)
        and not is_of_stack("prefect", url, state)
        and (state.was_used or not is_at(url, settings.prefect_port) or not prefect_service().problem),
        bool(tiled or settings.tiled_profile) and not is_of_stack("tiled", tiled, state),
    )
    if not any(is_own):
        return {}
    prefect = prefect_service() if url else Service("Prefect", "", "no address", "", "")
    named_by = {
        "tiled": "BLUESKY_PREFECT_TILED_PROFILE" if settings.tiled_profile and not tiled else SETTINGS["Tiled"],
        "prefect": SETTINGS["Prefect"] if "PREFECT_API_URL" in os.environ or not url else "Prefect's active profile",
    }
    found = {"tiled": tiled_service(settings), "prefect": prefect}
    return {name: OwnServer(service, named_by[name]) for name, service in found.items()}


def ask_own_prefect(path: str, **content: Any) -> Any:
    """Send a request to the API of the Prefect server that the settings name, and return the answer.

    Raises `StackError` if there is none.
    """
    url = prefect_url()
    header = prefect_authorization() or (basic_auth(user) if (user := user_in_url(url)) else "")
    ask = partial(request_json, f"{without_user(url).rstrip('/')}/{path}")
    return ask(headers={"Authorization": header} if header else None, **content)
