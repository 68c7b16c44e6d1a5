"""Messages between worker, fork server and children: JSON, one a packet or a line."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

# A packet between worker and fork server; the longest is the list of modules that could not be imported.
PACKET_BYTES = 1 << 16
ANSWER = "answer"


class Job(BaseModel):
    """A child's job.

    ``environment`` is all of its environment variables, and ``nice`` by how much its priority is below the worker's.
    Without ``output``, what it writes to standard output and error goes nowhere. ``arguments`` are those of ``python -m
    prefect.engine``; the first one is the flow run's id. With ``hooks``, a state, it runs the flow's hooks upon that in
    place of the flow, and gives them ``flow_run``; both are JSON. With ``check``, a function as ``module:name``, it
    calls that, and leaves its answer in the file `ANSWER` of the directory.
    """

    model_config = ConfigDict(frozen=True)

    environment: dict[str, str]
    directory: Path
    output: bool = True
    nice: int = 0
    arguments: list[str] = []
    hooks: str | None = None
    flow_run: str | None = None
    check: str | None = None


def message(**content: Any) -> bytes:
    """Return a message: a packet between worker and fork server, a line between worker and child."""
    return json.dumps(content).encode() + b"\n"


def threads() -> int:
    """Return how many threads this process has, those that Python knows nothing of included."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())
