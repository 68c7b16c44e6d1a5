"""A Bluesky RunEngine callback that starts Prefect flows."""

from bluesky_prefect._version import __version__

__all__ = ["__version__"]
