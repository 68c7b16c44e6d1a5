"""Simulated devices and plans, for the demo, the IPython profile and the tests."""

from bluesky_prefect.sim._devices import SimulatedDevices, make_devices
from bluesky_prefect.sim._image import ImageDetector
from bluesky_prefect.sim._plans import close_in_on_peak, failing_scan, find_peak, two_runs_interleaved
from bluesky_prefect.sim._simulated_run import simulated_run

__all__ = [
    "ImageDetector",
    "SimulatedDevices",
    "close_in_on_peak",
    "failing_scan",
    "find_peak",
    "make_devices",
    "simulated_run",
    "two_runs_interleaved",
]
