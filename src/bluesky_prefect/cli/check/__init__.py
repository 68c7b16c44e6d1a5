"""The command that looks at everything that runs need on their way."""

from bluesky_prefect.cli.check._command import check

__all__ = ["check"]
