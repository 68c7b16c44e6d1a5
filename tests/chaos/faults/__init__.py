"""All faults, by where they strike; importing this fills `tests.chaos.fault.FAULTS`."""

from tests.chaos.faults import (
    acquisition,
    beliefs,
    courier,
    disk,
    flows,
    journals,
    lines,
    listeners,
    outbox,
    prefect,
    tiled,
    workflow_list,
)

__all__ = [
    "acquisition",
    "beliefs",
    "courier",
    "disk",
    "flows",
    "journals",
    "lines",
    "listeners",
    "outbox",
    "prefect",
    "tiled",
    "workflow_list",
]
