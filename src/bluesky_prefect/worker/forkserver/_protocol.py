"""Messages between worker, fork server and children: JSON, one a packet or a line."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

# A packet between worker and fork server; the longest is the list of modules that could not be imported.
PACKET_BYTES = 1 << 16


class Job(BaseModel):
    """A child's job.

    Attributes
    ----------
    environment : dict
        All of its environment variables.
    directory : Path
        Its working directory.
    output : bool
        Whether it writes to the worker's standard output and error, or to nowhere.
    nice : int
        By how much its priority is below the worker's.
    arguments : list of str
        Those of ``python -m prefect.engine``; the first one is the flow run's id.
    hooks : str, optional
        In place of the flow, run its hooks upon this state, which is JSON.
    flow_run : str, optional
        The flow run that hooks are given, as JSON.
    """

    model_config = ConfigDict(frozen=True)

    environment: dict[str, str]
    directory: Path
    output: bool = True
    nice: int = 0
    arguments: list[str] = []
    hooks: str | None = None
    flow_run: str | None = None


def packet(**message: Any) -> bytes:
    """Return a message between worker and fork server."""
    return json.dumps(message).encode()


def line(**message: Any) -> bytes:
    """Return a message between worker and child."""
    return json.dumps(message).encode() + b"\n"


def threads() -> int:
    """Return how many threads this process has, those that Python knows nothing of included."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())
