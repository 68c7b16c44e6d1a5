"""All faults, by where they strike; importing this fills `tests.chaos.fault.FAULTS`."""

from tests.chaos.faults import acquisition, beliefs, disk, flows, prefect, tiled

__all__ = ["acquisition", "beliefs", "disk", "flows", "prefect", "tiled"]
