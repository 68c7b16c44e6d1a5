"""Addresses that carry credentials, and credentials that a server does not take."""

import base64
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from bluesky_prefect.exceptions import ConfigurationError

REFUSED = {401, 403}
PREFECT_KEY = "PREFECT_API_AUTH_STRING or PREFECT_API_KEY"


def without_secrets(url: str) -> str:
    """Return an address without user, password, query and fragment, where people put keys."""
    try:
        parts = urlsplit(without_user(url))
    except ValueError:
        return "an address that is none"
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")).rstrip("/")


def without_user(url: str) -> str:
    """Return an address without user and password.

    Raises
    ------
    ValueError
        If it is none.
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def tiled_address(uri: str, api_key: str | None) -> tuple[str, str | None]:
    """Return an address of Tiled free of secrets, and the API key: the one given, else the one in the address.

    Tiled's client asks once at the address as it is given, and httpx logs that.
    """
    parts = urlsplit(without_user(uri))
    [in_uri, *_] = parse_qs(parts.query).get("api_key") or [None]
    return urlunsplit(parts._replace(query="", fragment="")), api_key or in_uri


def user_of(url: str) -> str:
    """Return ``user:password`` of an address, empty if it names none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return unquote(f"{parts.username or ''}:{parts.password or ''}") if "@" in parts.netloc else ""


def basic(user: str) -> str:
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
