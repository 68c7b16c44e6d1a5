import re
from collections import defaultdict
from pathlib import Path

import pytest
from bluesky import RunEngine

from bluesky_prefect.sim import SimulatedDevices, failing_scan, find_peak, make_devices, two_runs_interleaved


@pytest.fixture
def devices(tmp_path: Path) -> SimulatedDevices:
    return make_devices(tmp_path)


@pytest.fixture
def names(run_engine: RunEngine) -> list[tuple[str, dict]]:
    collected: list[tuple[str, dict]] = []
    run_engine.subscribe(lambda name, doc: collected.append((name, doc)))
    return collected


def test_find_peak_leaves_the_motor_at_the_top(devices, run_engine):
    run_engine(find_peak(devices.det2, devices.motor2, -3, 3, 13))

    assert devices.motor2.position == 1


def test_find_peak_takes_the_number_of_points_asked_for(devices, run_engine, names):
    run_engine(find_peak(devices.det, devices.motor, 0.5, 0.5, 1, md={"sample": "a"}))

    assert [name for name, _ in names] == ["start", "descriptor", "event", "stop"]
    assert names[0][1]["sample"] == "a"


def test_interleaved_runs_take_turns(devices, run_engine, names):
    run_engine(two_runs_interleaved(devices.det1, devices.det2, 2))

    order = [name for name, _ in names if name != "descriptor"]
    assert order == ["start", "start", "event", "event", "event", "event", "stop", "stop"]
    starts = {doc["uid"]: doc["detectors"] for name, doc in names if name == "start"}
    events = defaultdict(int)
    for name, doc in names:
        if name == "stop":
            events[starts[doc["run_start"]][0]] += doc["num_events"]["primary"]
    assert events == {"det1": 2, "det2": 2}


@pytest.mark.parametrize("number", [0, 1])
def test_the_failing_scan_says_what_it_needs_before_it_begins(devices, run_engine, names, number):
    with pytest.raises(TypeError, match=re.escape("RE(failing_scan([det]))")):
        run_engine(failing_scan(*[devices.det][:number]))
    assert names == []


def test_the_failing_scan_ends_with_exit_status_fail(devices, run_engine, names):
    with pytest.raises(RuntimeError, match="on purpose"):
        run_engine(failing_scan([devices.det], 2))

    assert names[-1][1]["exit_status"] == "fail"
    assert sum(name == "event" for name, _ in names) == 2
