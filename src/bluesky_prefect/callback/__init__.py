"""The callback on the RunEngine's thread."""

from bluesky_prefect.callback._callback import PrefectCallback

__all__ = [
    "PrefectCallback",
]
