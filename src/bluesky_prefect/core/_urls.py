"""Addresses that carry credentials, and credentials that a server does not take."""

import base64
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit, urlunsplit

from bluesky_prefect.core._exceptions import ConfigurationError

REFUSED_STATUSES = {401, 403}
PREFECT_KEY = "PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
_SCHEMES = {"http", "https"}
UNREADABLE_URL = "an address that cannot be read"
URL_SPELLING = (
    "write http://host:port/path, or https://user:password@host; in a password %2F stands for '/', %23 for '#', "
    "%3F for '?', %40 for '@'"
)


def without_secrets(url: str) -> str:
    """Return an address without user, password, query and fragment, where people put keys.

    Nothing is returned of an address that `parse_url` refuses: any part of it may belong to a password.
    """
    try:
        parts = urlsplit(without_user(url) if url else "")
    except ConfigurationError:
        return UNREADABLE_URL
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")).rstrip("/")


def without_user(url: str) -> str:
    """Return an address without user and password.

    Raises
    ------
    ConfigurationError
        As `parse_url`.
    """
    parts = parse_url(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def parse_url(url: str) -> SplitResult:
    """Split an address whose password, if it has one, can be told from the rest.

    A '/', '#' or '?' in a password ends the host's part of the address: the rest of the password, and the '@', then
    stand in its path, and what comes before looks like a port.

    Raises
    ------
    ConfigurationError
        If it is no such address. Says how to write one, and repeats nothing of it.
    """
    try:
        parts = urlsplit(url)
        told_apart = "@" not in f"{parts.path}{parts.query}{parts.fragment}"
        if parts.scheme in _SCHEMES and parts.hostname and parts.port != 0 and told_apart:
            return parts
    except ValueError:  # its text may repeat the address
        pass
    raise ConfigurationError(f"It is {UNREADABLE_URL}: {URL_SPELLING}.")


def tiled_address(uri: str, api_key: str | None) -> tuple[str, str | None]:
    """Return an address of Tiled free of secrets, and the API key: the one given, else the one in the address.

    Tiled's client asks once at the address as it is given, and httpx logs that.

    Raises
    ------
    ConfigurationError
        If the address cannot be read; repeats nothing of it.
    """
    try:
        parts = parse_url(without_user(uri))
    except ConfigurationError as error:
        raise ConfigurationError(f"BLUESKY_PREFECT_TILED_URI holds {UNREADABLE_URL}: {URL_SPELLING}.") from error
    [in_uri, *_] = parse_qs(parts.query).get("api_key") or [None]
    return urlunsplit(parts._replace(query="", fragment="")), api_key or in_uri


def user_in_url(url: str) -> str:
    """Return ``user:password`` of an address, empty if it names none, or cannot be read."""
    try:
        parts = parse_url(url)
    except ConfigurationError:
        return ""
    return unquote(f"{parts.username or ''}:{parts.password or ''}") if "@" in parts.netloc else ""


def basic_auth(user: str) -> str:
    """Return the Authorization header for ``user:password``."""
    return "Basic " + base64.b64encode(user.encode()).decode()


def require_tiled_login(context: Any, name: str, *, key_given: bool, setting: str = "TILED_API_KEY") -> None:
    """Refuse a Tiled server that lets nobody in, or would ask for a password: nobody may be there to type it.

    Parameters
    ----------
    context : tiled.client.context.Context
        The connection.
    name : str
        What messages call the server; must hold no secret.
    key_given : bool
        Whether an API key is set.
    setting : str
        What sets it.

    Raises
    ------
    ConfigurationError
        If the server wants an API key or a login, and there is none.
    """
    authentication = context.server_info.authentication
    if context.authenticated or not authentication.required:
        return
    if key_given:
        # Not one that Tiled could have made, so its client does not even send it.
        raise ConfigurationError(f"Tiled at {name} refuses the API key: check {setting}")
    if not (authentication.providers and context.use_cached_tokens()):
        raise ConfigurationError(f"Tiled at {name} wants an API key: set {setting}, or log in once with: tiled login")
