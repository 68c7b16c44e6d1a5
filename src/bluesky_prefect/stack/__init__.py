"""Tiled server, Prefect server and worker on one machine."""

from bluesky_prefect.stack.info import StackInfo
from bluesky_prefect.stack.stack import LocalStack
from bluesky_prefect.stack.status import StackStatus

__all__ = ["LocalStack", "StackInfo", "StackStatus"]
