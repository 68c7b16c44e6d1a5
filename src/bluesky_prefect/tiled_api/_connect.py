"""The connection to the Tiled server that the settings name."""

from collections import ChainMap
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlunsplit

from bluesky_prefect.core import (
    REFUSED_STATUSES,
    UNREADABLE_URL,
    URL_SPELLING,
    ConfigurationError,
    TiledUnavailable,
    one_line,
    parse_url,
    without_secrets,
    without_user,
)

if TYPE_CHECKING:
    from tiled.client.container import Container

    from bluesky_prefect.core import Settings

_KEY = "TILED_API_KEY (or BLUESKY_PREFECT_TILED_API_KEY_BLOCK)"
# Answers that tell of the server, or of who asks, and not of what was asked for.
SERVER_TROUBLE = REFUSED_STATUSES | {502, 503, 504}
# How Tiled's access policies explain a 403.
_ABOUT_TAGS = "Access policy rejects"
# A profile's entries that decide whether its server lets its client in.
_OF_A_LOGIN = ("api_key", "headers", "verify", "trust_env")


def connect(
    settings: "Settings", api_key: str | None, *, setting: str = _KEY, clients: Any = None, **options: Any
) -> "Container":
    """Connect to the Tiled server that the settings name, and ask nobody for a password; return its root.

    Parameters
    ----------
    api_key : str or None
        The API key; that of the address or of the profile by default. `setting` is what sets it.
    clients : Mapping, optional
        Tiled's clients by structure family and spec; those that are installed, or the profile's, by default.
    **options
        What `tiled.client.context.Context` takes, such as ``timeout``.

    Raises
    ------
    ConfigurationError
        If the settings name no server, or an unknown profile, or no API key where the server wants one.
    httpx.TransportError, httpx.HTTPStatusError
        If the server does not answer, or refuses the API key.
    """
    from tiled.client import Context, from_context, from_profile

    if settings.tiled_uri:
        address, api_key = address_and_key(settings.tiled_uri, api_key)
        with ExitStack() as opened:
            context, path = Context.from_any_uri(address, api_key=api_key, **options)
            opened.callback(context.close)
            require_login(context, without_secrets(address), key_given=bool(api_key), setting=setting)
            root = from_context(context, clients or "numpy", path)
            opened.pop_all()
        return _with_bounded_waits(root, settings.retry_max_s)
    if not settings.tiled_profile:
        raise ConfigurationError(
            "No Tiled server is named: set BLUESKY_PREFECT_TILED_URI or BLUESKY_PREFECT_TILED_PROFILE."
        )
    content = _profile(settings.tiled_profile)
    options |= {"api_key": api_key} if api_key else {}
    if uri := content.get("uri"):
        its = {name: content[name] for name in _OF_A_LOGIN if name in content} | options
        context, _ = Context.from_any_uri(uri, **its)
        with closing(context):
            require_login(context, without_secrets(uri), key_given=bool(its.get("api_key")), setting=setting)
    return _with_bounded_waits(from_profile(settings.tiled_profile, clients, **options), settings.retry_max_s)


def server_address(settings: "Settings") -> str:
    """Return the address of the server that the settings name, by itself or in a profile, which has to exist.

    Empty if they name none, or if the profile is of a server inside this process.
    """
    if settings.tiled_uri is not None or settings.tiled_profile is None:
        return settings.tiled_uri or ""
    return str(_profile(settings.tiled_profile).get("uri", ""))


def server_name(settings: "Settings") -> str:
    """Return the address of the server that the settings name, free of secrets; empty if there is none to be had."""
    try:
        return without_secrets(server_address(settings))
    except ConfigurationError:
        return ""


def container_at(root: "Container", path: str, name: str) -> "Container":
    """Return the container at a path of a server, or say what to do without it; `name` is for messages."""
    path = path.strip("/")
    try:
        return root[tuple(path.split("/"))] if path else root
    except KeyError:
        raise ConfigurationError(
            f"Tiled at {name} has no container {path!r} that this API key may see: create it, or set "
            "BLUESKY_PREFECT_RAW_CONTAINER and BLUESKY_PREFECT_PROCESSED_CONTAINER."
        ) from None


@contextmanager
def tiled_errors(name: str) -> Iterator[None]:
    """Turn what goes wrong between here and Tiled into an error that says what to do.

    Raises
    ------
    TiledUnavailable
        If the server cannot be reached, fails, or refuses.
    """
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if _ABOUT_TAGS in str(error):
            raise TiledUnavailable(
                f"Tiled at {name} refuses the access tags ({one_line(str(error), 300)}): have the key's owner made an "
                "owner of these tags, who may read and write with them, or use another key."
            ) from error
        remedy = (
            f"set {_KEY} to a key that may read runs and write results"
            if status in REFUSED_STATUSES
            else "its log says more"
        )
        raise TiledUnavailable(f"Tiled at {name} answered with HTTP status {status}: {remedy}.") from error
    except httpx.InvalidURL:  # it repeats a part of the address, which may belong to a password
        raise ConfigurationError(f"Tiled is set to {UNREADABLE_URL}: {URL_SPELLING}.") from None
    except httpx.TransportError as error:
        # Without its chain: a flow run's log would show two hundred lines of it.
        raise TiledUnavailable(
            f"Tiled at {name} cannot be reached ({one_line(str(error) or type(error).__name__, 200)}): is it "
            "running, and is BLUESKY_PREFECT_TILED_URI right?"
        ) from None


def configured_key(settings: "Settings") -> str | None:
    """Return the API key that the settings hold, or the one in Prefect's Secret block that they name."""
    if settings.tiled_api_key is not None:
        return settings.tiled_api_key.get_secret_value()
    if settings.tiled_api_key_block is None:
        return None
    from prefect.blocks.system import Secret

    try:
        # Said, because within an asynchronous flow it would be a coroutine.
        block: Any = Secret.load(settings.tiled_api_key_block, _sync=True)  # pyright: ignore[reportCallIssue]
    except ValueError as error:
        raise ConfigurationError(
            f"Prefect has no Secret block {settings.tiled_api_key_block!r}: create it, or set TILED_API_KEY."
        ) from error
    return str(block.get())


def plain_clients() -> Any:
    """Return Tiled's own clients.

    The special ones that bluesky-tiled-plugins registers for runs cost seconds to import, and hide a stream's
    parts, which is what the export is made of.
    """
    from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH, Container

    special = ("CatalogOfBlueskyRuns", "BlueskyRun", "BlueskyEventStream", "composite")
    plain: Any = DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"]  # lazy: what is not looked up is not imported
    return ChainMap(dict.fromkeys(special, Container), plain)


def address_and_key(uri: str, api_key: str | None) -> tuple[str, str | None]:
    """Return an address free of secrets, which httpx logs, and the API key: the one given, else the address's own."""
    try:
        parts = parse_url(without_user(uri))
    except ConfigurationError as error:
        raise ConfigurationError(f"BLUESKY_PREFECT_TILED_URI holds {UNREADABLE_URL}: {URL_SPELLING}.") from error
    [in_uri, *_] = parse_qs(parts.query).get("api_key") or [None]
    return urlunsplit(parts._replace(query="", fragment="")), api_key or in_uri


def require_login(context: Any, name: str, *, key_given: bool, setting: str) -> None:
    """Refuse a server that lets nobody in, or would ask for a password: nobody may be there to type it."""
    authentication = context.server_info.authentication
    if context.authenticated or not authentication.required:
        return
    if key_given:
        # Not one that Tiled could have made, so its client does not even send it.
        raise ConfigurationError(f"Tiled at {name} refuses the API key: check {setting}")
    if not (authentication.providers and context.use_cached_tokens()):
        raise ConfigurationError(f"Tiled at {name} wants an API key: set {setting}, or log in once with: tiled login")


def _with_bounded_waits(root: "Container", max_s: float) -> "Container":
    """Have Tiled's client wait at most so long where a server asks for it: it would sleep for days, if asked to."""

    def bound(response: Any) -> None:
        asked = response.headers.get("Retry-After")
        with suppress(TypeError, ValueError):  # there is none, or it is a date, which Tiled's client does not obey
            response.headers["Retry-After"] = str(max_s if not float(asked) <= max_s else max(float(asked), 0.0))

    root.context.http_client.event_hooks["response"].append(bound)
    return root


def _profile(name: str) -> dict[str, Any]:
    from tiled.profiles import load_profiles

    try:
        return load_profiles()[name][1]
    except KeyError:
        raise ConfigurationError(f"There is no Tiled profile {name!r}: check BLUESKY_PREFECT_TILED_PROFILE.") from None
