"""Parts of a stack that run, and have to be started anew all the same."""

from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from bluesky_prefect.core import Settings, StackError
from bluesky_prefect.stack._keys import CLIENT_AUTH_STRING, SERVER_AUTH_STRING, StackKeys
from bluesky_prefect.stack._ports import HOST, hold_port
from bluesky_prefect.stack._process import ManagedProcess
from bluesky_prefect.stack._service import Service
from bluesky_prefect.stack._tiled import KEY
from bluesky_prefect.stack._worker import WORKER_TYPE

# Settings that neither worker nor courier uses, or that `up` speaks of in another way.
_NOT_THEIRS = {"state_directory", "tiled_port", "prefect_port", "worker_type", "prefect_database_url", "readable"} | {
    "tiled_uri",
    "tiled_profile",
    "tiled_api_key",
    "tiled_api_key_block",
    "tell_of_started_flows",
    "start_courier",
    "listen_every_s",
}


def server_outdated(name: str, process: ManagedProcess, keys: StackKeys) -> str:
    """Return why a server must not be used as it is, or ""; from then on this process holds its port.

    The server of another operator is used as it is: nobody else may look into it, and its owner's processes hold it.
    """
    if not process.is_ours:
        return ""
    try:
        hold_port(process.port or 0)
    except StackError:
        # Its ended connections keep the port from the next one for a minute.
        return "an older version has started it, open to other users of this machine (takes up to a minute)"
    variable, secret = (SERVER_AUTH_STRING, keys.prefect) if name == "prefect" else (KEY, keys.tiled)
    return "" if process.variable(variable) == secret.get_secret_value() else "its key has changed"


def worker_outdated(process: ManagedProcess, settings: Settings, keys: StackKeys, *, moved: bool) -> str:
    """Return why a worker cannot go on, or ""; who asks for no type takes what there is."""
    if why := addresses_outdated(process, keys, moved=moved):
        return why
    asked = "worker_type" in settings.model_fields_set
    if asked and process.is_ours and process.variable(WORKER_TYPE) != settings.worker_type:
        return f"{settings.worker_type} was asked for"
    return ""


def courier_outdated(process: ManagedProcess, keys: StackKeys, *, moved: bool) -> str:
    """Return why a courier cannot go on, or ""; one that takes its runs to another Tiled is left alone."""
    uri, profile = (process.variable(f"BLUESKY_PREFECT_TILED_{name}") for name in ("URI", "PROFILE"))
    if profile or (uri and urlsplit(uri).hostname != HOST):
        return ""
    return addresses_outdated(process, keys, moved=moved)


def addresses_outdated(process: ManagedProcess, keys: StackKeys, *, moved: bool) -> str:
    """Return why a process that talks to both servers cannot go on, or ""."""
    if not process.is_ours and not moved:
        return ""
    if moved or process.variable("TILED_API_KEY") != keys.tiled.get_secret_value():
        return "an address or Tiled's key has changed"
    if process.variable(CLIENT_AUTH_STRING) != keys.prefect.get_secret_value():
        return "Prefect's password has changed"
    return ""


def other_settings(services: Iterable[Service], running: Mapping[str, ManagedProcess], settings: Settings) -> str:
    """Return that worker or courier runs with other settings than those set here, and what to do; or ""."""
    theirs = {
        one.title: list(_other_variables(one, running[one.name], settings))
        for one in services
        if one.name in ("worker", "courier") and one.name in running
    }
    if not any(theirs.values()):
        return ""
    names = ", ".join(sorted({name for names in theirs.values() for name in names}))
    titles = [title for title, names in theirs.items() if names]
    lack = "does not have" if len(titles) == 1 else "do not have"
    return f"{', '.join(titles)}: {lack} the present {names}. To change it: bluesky-prefect down, then up"


def _other_variables(service: Service, process: ManagedProcess, settings: Settings) -> Iterator[str]:
    """Yield the variables that are set here, and with which a process was not started."""
    if not process.is_ours:
        return
    wanted = service.environment()
    for name in settings.model_fields_set - _NOT_THEIRS:
        variable = f"BLUESKY_PREFECT_{name.upper()}"
        has = process.variable(variable)
        default = Settings.model_fields[name].get_default(call_default_factory=True)
        if getattr(settings, name) != default if has is None else has != wanted.get(variable):
            yield variable
