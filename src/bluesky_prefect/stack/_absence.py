"""Explanations where Tiled or Prefect does not answer: that the local stack is down, or which setting to check."""

from urllib.parse import urlsplit

from bluesky_prefect.core import PrefectUnavailable, Settings, TiledUnavailable, comparable_url, without_secrets
from bluesky_prefect.stack._discovery import START_COMMAND, Service, is_this_machine, prefect_service
from bluesky_prefect.stack._http import PATIENCE_S, probe
from bluesky_prefect.stack._info import StackPaths, StackState
from bluesky_prefect.stack._ports import HOST

SETTINGS = {"Tiled": "BLUESKY_PREFECT_TILED_URI", "Prefect": "PREFECT_API_URL"}


def tiled_service(settings: Settings, patience_s: float = 0.0) -> Service:
    """Ask the Tiled server that the settings name whether it is there; see `probe`."""
    from bluesky_prefect.tiled_api import server_address

    if settings.tiled_uri is None and settings.tiled_profile is None:
        return Service("Tiled", "", "no address", "", "")
    address = server_address(settings)
    # A profile without an address is a server inside this process.
    problem = probe(address, patience_s=patience_s).problem if address else ""
    return Service("Tiled", without_secrets(address), problem, "", "")


def require_services(settings: Settings, *, options: str = "") -> None:
    """Raise an error in a line if Tiled or Prefect does not answer; `options` is what ``up`` has to be called with.

    Raises
    ------
    TiledUnavailable, PrefectUnavailable
        If it does not.
    """
    # Somebody asks for something: a server that is busy for a moment is not away.
    for service, error in (
        (tiled_service(settings, PATIENCE_S), TiledUnavailable),
        (prefect_service(PATIENCE_S), PrefectUnavailable),
    ):
        if service.problem:
            raise error(explain_absence(service, settings, options=options))


def prefect_absence(settings: Settings, error: PrefectUnavailable, *, options: str = "") -> str:
    """Return why Prefect could not be asked, in a line: what the error says, if it answers now."""
    service = prefect_service()
    return explain_absence(service, settings, options=options) if service.problem else str(error)


def explain_absence(service: Service, settings: Settings, *, options: str = "") -> str:
    """Return why a server does not answer and what helps, in a line."""
    start, state = f"{START_COMMAND}{options}", StackState.load(StackPaths(settings.state_directory).state)
    name, setting = service.name.lower(), SETTINGS[service.name]
    if name == "tiled" and settings.tiled_profile and not settings.tiled_uri:
        setting = "BLUESKY_PREFECT_TILED_PROFILE"
    # Where it will be next may be another place than where it was.
    ports = {"prefect": settings.prefect_port, "tiled": settings.tiled_port}
    if state.was_used and (not service.url or is_of_stack(name, service.url, state) or is_at(service.url, ports[name])):
        server = f"The local stack's {service.name} server does not answer ({service.problem})"
        what = (
            server
            if any(one.port and one.is_alive() for one in state.processes.values())
            else "The local stack is down"
        )
        return f"{what} (state directory {settings.state_directory}). Start it with: {start}"
    if not service.url or (not state.was_used and is_at(service.url, ports[name])):
        return f"No {service.name} server is named: set {setting}, or start a local stack with: {start}"
    if service.remedy.startswith("check") and service.remedy != f"check {setting}":  # it answers, and lets nobody in
        return f"{service.name} at {service.url} {service.problem}: {service.remedy}"
    local = f", or start a local stack with: {start}" if is_this_machine(service.url) else ""
    return f"{service.name} at {service.url} does not answer ({service.problem}): check {setting}{local}"


def is_of_stack(name: str, url: str, state: StackState) -> bool:
    """Tell whether an address is that of a server of the local stack, as it was last."""
    return is_at(url, state.last_ports.get(name))


def is_at(url: str, port: int | None) -> bool:
    """Tell whether an address is that of a port of this machine's stack."""
    place = urlsplit(comparable_url(url) or "")
    return (place.hostname, place.port) == (HOST, port)
