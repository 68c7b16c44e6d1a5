"""Prefect's address and credentials, read without importing Prefect."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from bluesky_prefect.credentials import basic


def prefect_url(environment: Mapping[str, str] = os.environ) -> str:
    """Return the address of Prefect's API as `environment` or Prefect's active profile has it, else ""."""
    return _prefect_setting("PREFECT_API_URL", environment)


def prefect_authorization(environment: Mapping[str, str] = os.environ) -> str:
    """Return the Authorization header that Prefect's client would send to the server, empty if it has none."""
    if user := _prefect_setting("PREFECT_API_AUTH_STRING", environment):
        return basic(user)
    key = _prefect_setting("PREFECT_API_KEY", environment)
    return f"Bearer {key}" if key else ""


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
