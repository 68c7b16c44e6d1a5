"""Discovery of this session's Tiled and Prefect."""

import contextlib
import os
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from bluesky_prefect.core import (
    LOOPBACK_NAMES,
    PREFECT_KEY,
    Settings,
    StackError,
    comparable_url,
    decline_telemetry,
    get_settings,
    is_trusted,
    prefect_authorization,
    prefect_url,
    private_directory,
    user_in_url,
    without_secrets,
    without_user,
)
from bluesky_prefect.prefect_api import runs_url
from bluesky_prefect.stack._http import probe
from bluesky_prefect.stack._info import STACK_WORKFLOWS, StackPaths, StackState, listed_in, stack_info
from bluesky_prefect.stack._keys import CLIENT_AUTH_STRING, StackKeys
from bluesky_prefect.stack._ports import hold_port
from bluesky_prefect.stack._process import without_proxy

START_COMMAND = "bluesky-prefect up"
# Tiled's own patience (10 tries, 45 s) would hold a scan for that long; it reads these when it is imported.
_TILED_RETRIES = {"TILED_RETRY_ATTEMPTS": "3", "TILED_RETRY_TIMEOUT": "5"}
_TILED_VARIABLES = {"BLUESKY_PREFECT_TILED_URI", "BLUESKY_PREFECT_TILED_API_KEY", "TILED_API_KEY"}
_PREFECT_VARIABLES = {"PREFECT_API_URL", "PREFECT_UI_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME"}


@dataclass(frozen=True)
class Service:
    """One of the two servers that a session talks to, and what to tell of it.

    Parameters
    ----------
    name, url : str
        "Tiled" or "Prefect", and its address, empty if nothing says where it is.
    problem : str
        Why it does not answer, empty if it does.
    consequence, remedy : str
        What its absence means for a scan, and what the user can do about it; no remedy if the problem says it.
    note : str
        What else the user should know, in a sentence.
    """

    name: str
    url: str
    problem: str
    consequence: str
    remedy: str
    note: str = ""

    @property
    def cause(self) -> str:
        """Its place, and the problem with it."""
        return f"{self.url}: {self.problem}" if self.url else self.problem


def use_services(environment: MutableMapping[str, str] = os.environ, *, make_keys: bool = False) -> Settings:
    """Point `environment` to the session's services, and return the settings as they are then.

    What the environment, or Prefect's active profile, names already stays; the rest is the running local stack.
    With no stack running, Prefect is where the stack will be, so that runs taken before it is started get their
    flow runs afterwards; with `make_keys`, as for a session, it is settled now what password they will need there.

    To be called before prefect and tiled are imported: both read the environment at that time.
    """
    for name, value in _TILED_RETRIES.items():
        environment.setdefault(name, value)
    decline_telemetry(environment)
    settings = get_settings()
    for name in ("state_directory", "output_directory", "workflows"):
        if name in settings.model_fields_set and getattr(settings, name) is not None:
            # As it was meant at the start: the settings are read again later, here and in child processes.
            environment[f"BLUESKY_PREFECT_{name.upper()}"] = str(getattr(settings, name))
    stack = _stack_environment(settings)
    kept = {name for name in ("BLUESKY_PREFECT_OUTPUT_DIRECTORY",) if environment.get(name)}
    # The stack's list says what runs of the stack should have had, and nothing of those of another server.
    names_another = _names_another(prefect_url(environment), stack.get("PREFECT_API_URL", ""))
    if settings.workflows or names_another:
        kept.add("BLUESKY_PREFECT_WORKFLOWS")
    if settings.tiled_uri is not None or settings.tiled_profile is not None:
        kept |= _TILED_VARIABLES
    # One server's password is not for another: with the stack's address goes the stack's password, and only with it.
    if names_another:
        kept |= _PREFECT_VARIABLES
    environment.update({name: value for name, value in stack.items() if name not in kept})
    if not stack and not names_another:
        environment.update(_next_stack_environment(settings, make_keys))
    elif not stack:
        _drop_secrets_for_others(environment, settings)
    # Nobody's proxy has to know what goes to this machine.
    environment.update(without_proxy(dict(environment)))
    if user := user_in_url(environment.get("PREFECT_API_URL", "")):
        # For the flows called at the prompt: Prefect's client would have it in the log of each request.
        environment["PREFECT_API_URL"] = without_user(environment["PREFECT_API_URL"])
        environment.setdefault("PREFECT_API_AUTH_STRING", user)
    get_settings.cache_clear()
    return get_settings()


def hold_ports(settings: Settings) -> None:
    """Hold the ports of the state directory's stack that this process's environment names, for as long as it lives.

    No other user of the machine can listen there from then on, and be told what is meant for the stack. Raises
    `StackError` if somebody else does.
    """
    state = StackState.load(StackPaths(settings.state_directory).state)
    for name, url in (("prefect", prefect_url()), ("tiled", settings.tiled_uri or "")):
        # Those of another operator's stack are that operator's to hold.
        is_ours = state.last_users.get(name) == os.geteuid() and _port(url) == state.last_ports.get(name)
        if is_ours and is_this_machine(url):
            hold_port(_port(url))


def _names_another(url: str, stack_url: str) -> bool:
    """Tell whether an address is that of another server than the stack's, however it is written."""
    return bool(url) and (not stack_url or comparable_url(url) != comparable_url(stack_url))


def _drop_secrets_for_others(environment: MutableMapping[str, str], settings: Settings) -> None:
    """Take the secrets of a stack that is down out of an environment that was told them, if others may listen there."""
    keys = StackKeys.load(StackPaths(settings.state_directory))
    if keys is None:
        return
    for address, secret, names in (
        ("PREFECT_API_URL", keys.prefect, [CLIENT_AUTH_STRING]),
        ("BLUESKY_PREFECT_TILED_URI", keys.tiled, ["TILED_API_KEY", "BLUESKY_PREFECT_TILED_API_KEY"]),
    ):
        told = [name for name in names if environment.get(name) == secret.get_secret_value()]
        if told and _port_problem(_port(environment.get(address, ""))):
            for name in told:
                del environment[name]


def _port(url: str) -> int:
    try:
        return urlsplit(url).port or 0
    except ValueError:
        return 0


def _stack_environment(settings: Settings) -> dict[str, str]:
    from bluesky_prefect.stack._stack import LocalStack

    try:
        info = LocalStack(settings).find()
    except (StackError, OSError):
        return {}
    return info.environment() if info else {}


def stack_addresses(settings: Settings) -> dict[str, str]:
    """Return the variables that make a process use the state directory's stack, up or down; none without one.

    Of one that is down they hold its addresses and no secret. Raises `StackError` if somebody else listens there.
    """
    state = StackState.load(StackPaths(settings.state_directory).state)
    if environment := _stack_environment(settings):
        return environment
    if not state.was_used:
        return {}
    for port in state.last_ports.values():
        hold_port(port)  # whatever key this process has for other servers is not for whoever might listen there
    return stack_info(settings, state.last_ports, StackKeys.none()).environment()


def _next_stack_environment(settings: Settings, make_keys: bool) -> dict[str, str]:
    """Return where Prefect will be once the stack is up, and the password that it will ask for.

    Nothing, if somebody else may be listening there: runs, and the password, would be theirs.
    """
    paths = StackPaths(settings.state_directory)
    port = settings.prefect_port or StackState.load(paths.state).last_ports.get("prefect", 0)
    if _port_problem(port):
        return {}
    environment = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    listed = listed_in(paths) if is_trusted(paths.root) else None
    if settings.workflows is None and (listed or settings.beamline):
        # The stack's deployments are not called after the beamline, as those of a session's own default are.
        environment["BLUESKY_PREFECT_WORKFLOWS"] = listed or STACK_WORKFLOWS
    keys = StackKeys.load(paths)
    if keys is None and make_keys:
        # Where no file can be written, no stack can be started either.
        with contextlib.suppress(OSError):
            private_directory(paths.root)
            keys = StackKeys.load_or_make(paths)
    return {**environment, CLIENT_AUTH_STRING: keys.prefect.get_secret_value() if keys else ""}


def _port_problem(port: int) -> str:
    """Return why the port of a stack that is not up cannot be trusted, or "": then no other user can take it."""
    if port == 0:
        return "where the stack will be is not known"
    try:
        hold_port(port)
    except StackError as error:
        return str(error)
    return ""


def prefect_service(patience_s: float = 0.0) -> Service:
    """Ask Prefect, with this session's credentials, and return what came of it; see `probe`."""
    url = prefect_url()
    consequence = "flow runs start when Prefect is there"
    if not url:
        remedy = "free that port, or set PREFECT_API_URL or BLUESKY_PREFECT_PREFECT_PORT"
        return Service("Prefect", "", _port_problem(get_settings().prefect_port) or "no address", consequence, remedy)
    authorization = prefect_authorization()
    # Not its health, which Prefect tells everybody.
    answer = probe(f"{url}/admin/version", authorization=authorization, patience_s=patience_s)
    place = without_secrets(url)
    problem, remedy = answer.problem, start_or_check(place, "PREFECT_API_URL")
    if answer.refused:
        problem = (
            "refuses the credentials" if authorization or user_in_url(url) else "wants credentials, and none are set"
        )
        remedy = f"check {PREFECT_KEY}"
    browser = place.removesuffix("/api")
    note = "" if problem else _open_door(url, browser)
    return Service("Prefect", browser if problem else runs_url(browser), problem, consequence, remedy, note)


def _open_door(url: str, name: str) -> str:
    """Return a warning if a server that other machines may reach lets everybody in, else ""."""
    if is_this_machine(url):
        return ""
    answer = probe(f"{without_user(url)}/admin/version")
    if answer.problem or answer.refused:
        return ""
    return (
        f"Prefect at {name} asks for no password: whoever reaches it can run programs as its workers do. "
        "Set PREFECT_SERVER_API_AUTH_STRING where it runs."
    )


def is_this_machine(url: str) -> bool:
    """Tell whether an address is one of this machine's own."""
    return urlsplit(url).hostname in LOOPBACK_NAMES


def start_or_check(url: str, variable: str) -> str:
    """Return what helps where no server answers at `url`, which the environment variable names."""
    if not url or is_this_machine(url):
        return f"start with: {START_COMMAND}"
    return f"check {variable}"


def describe(services: list[Service]) -> str:
    """Return one line that says where the services are, or what is missing and how to start it."""
    return " ".join([_places(services), *(service.note for service in services if service.note)])


def _places(services: list[Service]) -> str:
    missing = [service for service in services if service.problem]
    if not missing:
        return "; ".join(f"{service.name}: {service.url}" for service in services)
    names = ", no ".join(service.name for service in missing)
    causes = "; ".join(f"{service.name}: {service.cause}" for service in missing)
    consequences = ", ".join(service.consequence for service in missing)
    remedies = dict.fromkeys(service.remedy for service in missing if service.remedy)
    return f"No {names} ({causes}). Scans run all the same: {consequences}. {_sentence(remedies)}".rstrip()


def _sentence(parts: Iterable[str]) -> str:
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]
