"""Addresses that carry credentials, and credentials that a server does not take."""

import base64
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from bluesky_prefect.core._exceptions import ConfigurationError

REFUSED_STATUSES = {401, 403}
PREFECT_KEY = "PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
_SCHEMES = {"http", "https"}
# Names by which a machine calls itself.
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
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
    """Return an address without user and password; raises what `parse_url` does."""
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
