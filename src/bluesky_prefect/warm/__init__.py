"""A Prefect worker that forks flow runs from a process which has imported what they need.

Prefect finds it by the entry point ``prefect.collections``: importing `bluesky_prefect.warm.worker` makes the worker
type ``warm-process`` known. Nothing is imported here: the fork server is a module of this package, and has no use for
the worker.
"""
