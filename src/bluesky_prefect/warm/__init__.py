"""A Prefect worker that forks flow runs from a process which has imported what they need.

Prefect finds it by the entry point ``prefect.collections``: importing this module makes the worker type
``warm-process`` known.
"""

from bluesky_prefect.warm.worker import WarmProcessWorker

__all__ = ["WarmProcessWorker"]
