"""Prefect's address and credentials, read without importing Prefect, and what it has to know before it is imported."""

import os
import tomllib
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from pathlib import Path

from bluesky_prefect.core._exceptions import ConfigurationError
from bluesky_prefect.core._urls import basic_auth, parse_url

# Files in the working directory that may say otherwise than Prefect's profile; reading them is left to Prefect.
_SETTINGS_FILES = (".env", "prefect.toml", "pyproject.toml")
_STANDARD_PORTS = {"http": 80, "https": 443}


def prefect_url(environment: Mapping[str, str] = os.environ) -> str:
    """Return the address of Prefect's API as `environment` or Prefect's active profile has it, else ""."""
    return _prefect_setting("PREFECT_API_URL", environment)


def prefect_authorization(environment: Mapping[str, str] = os.environ) -> str:
    """Return the Authorization header that Prefect's client would send to the server, empty if it has none."""
    if user := _prefect_setting("PREFECT_API_AUTH_STRING", environment):
        return basic_auth(user)
    key = _prefect_setting("PREFECT_API_KEY", environment)
    return f"Bearer {key}" if key else ""


def decline_telemetry(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have Prefect, imported after this, send no usage data and not print at a prompt that it does.

    What the user has decided stays.
    """
    environment.setdefault("DO_NOT_TRACK", "1")


def api_address() -> str | None:
    """Return the address of Prefect's API by which this process tells servers apart, or None if it is not known.

    Takes microseconds: a profile's file is read once, as Prefect itself does. Where a file in the working directory
    may say otherwise than the profile, only Prefect knows.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        return comparable_url(url)
    names = ("PREFECT_HOME", "PREFECT_PROFILES_PATH", "PREFECT_PROFILE")
    try:
        return _profile_address(Path.cwd(), *(os.environ.get(name, "") for name in names))
    except (OSError, RuntimeError):  # the working directory is gone, or not to be entered; there is no home
        return None


@lru_cache(maxsize=16)
def comparable_url(url: str) -> str | None:
    """Return an address of an API in the one form that two of the same server share, free of secrets.

    Without user, password, query, fragment and trailing slash; ``localhost`` is 127.0.0.1. None for what cannot be
    taken apart safely: a part of a password could be taken for a part of the host.
    """
    try:
        parts = parse_url(url.strip())
    except ConfigurationError:
        return None
    host, port = parts.hostname or "", parts.port
    host = "127.0.0.1" if host == "localhost" else f"[{host}]" if ":" in host else host
    named_port = "" if port in (None, _STANDARD_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{named_port}{parts.path.rstrip('/')}"


@lru_cache(maxsize=4)
def _profile_address(directory: Path, *names: str) -> str | None:
    if any((directory / file).exists() for file in _SETTINGS_FILES):
        return None
    return comparable_url(prefect_url())


def _prefect_setting(name: str, environment: Mapping[str, str]) -> str:
    """Return what `environment` or Prefect's active profile says.

    The profile is read from its file: asking Prefect means importing it, which takes a second or more. What stands
    in a prefect.toml or .env in the working directory is left to the forwarder, which asks Prefect a few seconds later.
    """
    if value := environment.get(name):
        return value
    home = Path(environment.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = Path(environment.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        content = tomllib.loads(path.read_text())
        active = environment.get("PREFECT_PROFILE") or content.get("active", "")
        return str(content.get("profiles", {}).get(active, {}).get(name, ""))
    except (OSError, ValueError, AttributeError):
        return ""
