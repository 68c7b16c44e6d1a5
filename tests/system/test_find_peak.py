"""The flow find-peak, from a run in Tiled to the entry that a plan finds."""

import bluesky.plans as bp
import pytest

from bluesky_prefect.core import get_settings
from bluesky_prefect.flows import find_peak
from bluesky_prefect.tiled_api import Catalog, results_of
from tests.system.beamline import Beamline
from tests.system.flow_room import room_for


@pytest.fixture(scope="module")
def room(stack, tmp_path_factory):
    with room_for(stack, tmp_path_factory.mktemp("peak")) as room:
        yield room


@pytest.fixture(scope="module")
def beamline(room):
    return Beamline(room.tiled["raw"], room.stack.images)


def results(uid):
    with Catalog.connect(get_settings()) as catalog:
        return results_of(catalog, uid)


def test_a_scan_s_peak_is_found_and_written_once(room, beamline):
    devices = beamline.devices
    [uid] = beamline.run(bp.scan([devices.det], devices.motor, -5, 5, 41))

    for _ in range(2):
        found = find_peak(uid)
        assert (found["found"], found["motor"], found["detector"]) == (True, "motor", "det")
        assert found["center"] == pytest.approx(0, abs=0.01)
        [(path, metadata)] = results(uid).items()

    assert path == f"processed/peak-{uid}"
    assert metadata["quantity"] == "peak"
    assert metadata["fwhm"] == found["fwhm"] == pytest.approx(2.355, rel=0.02)
    assert room.tiled["processed"][f"peak-{uid}"].read()["det"].to_list() == pytest.approx(
        room.tiled["raw"][uid]["primary"].read()["det"].values.tolist()
    )


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (lambda devices: bp.scan([devices.det], devices.motor, 1, 5, 5), "the scan ends too early"),
        (lambda devices: bp.count([devices.det], 3), "not a scan of one motor"),
        (lambda devices: bp.scan([devices.img], devices.motor, 1, 5, 2), "not a scan of one motor"),
    ],
)
def test_that_there_is_no_peak_is_a_finding_too(room, beamline, plan, why):
    [uid] = beamline.run(plan(beamline.devices))
    state = find_peak(uid, return_state=True)
    assert state.is_completed()
    assert why in state.message
    [metadata] = results(uid).values()
    assert metadata["found"] is False
    assert why in metadata["reason"]
