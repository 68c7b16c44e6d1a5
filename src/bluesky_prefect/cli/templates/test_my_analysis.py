"""Test of my_analysis on a simulated scan; it needs no server."""

from bluesky.plans import scan
from my_analysis import analyse, conclude

from bluesky_prefect.sim import make_devices, simulated_run


def test_my_analysis_of_a_scan(tmp_path):
    devices = make_devices(tmp_path)
    with simulated_run(scan([devices.det], devices.motor, -2, 2, 11), tmp_path) as run:
        result = analyse.fn(run)
        told = conclude.fn(run, result)

    assert result["motor"]["min"] == -2
    assert result["motor"]["max"] == 2
    assert told["points"] == 11
