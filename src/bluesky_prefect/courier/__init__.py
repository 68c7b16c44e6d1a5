"""The thread that takes submissions from the outbox to Prefect."""

from bluesky_prefect.courier._forwarder import CLOSE_TIMEOUT_S, Forwarder

__all__ = [
    "CLOSE_TIMEOUT_S",
    "Forwarder",
]
