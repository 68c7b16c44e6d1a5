from collections import defaultdict
from pathlib import Path
from urllib.parse import urlparse

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count, scan

from bluesky_prefect.sim import SimulatedDevices, make_devices


@pytest.fixture
def devices(tmp_path: Path) -> SimulatedDevices:
    return make_devices(tmp_path / "images")


@pytest.fixture
def documents(run_engine: RunEngine) -> dict[str, list[dict]]:
    collected = defaultdict(list)
    run_engine.subscribe(lambda name, doc: collected[name].append(doc))
    return collected


def _path(document: dict) -> Path:
    return Path(urlparse(document["uri"]).path)


def test_each_device_is_named_as_its_attribute(devices: SimulatedDevices):
    assert {name: device.name for name, device in vars(devices).items()} == {name: name for name in vars(devices)}


def test_making_devices_touches_no_disk(devices: SimulatedDevices, tmp_path: Path):
    assert not (tmp_path / "images").exists()


def test_the_point_detector_sees_the_peak_of_its_motor(devices, run_engine, documents):
    run_engine(scan([devices.det], devices.motor, -1, 1, 3))

    readings = [event["data"]["det"] for event in documents["event"]]
    assert readings == pytest.approx([np.exp(-0.5), 1, np.exp(-0.5)])


def test_one_file_a_run_holds_one_frame_an_event(devices, run_engine, documents):
    run_engine(count([devices.image_det], 3))

    (resource,) = documents["stream_resource"]
    with h5py.File(_path(resource)) as file:
        frames = file[resource["parameters"]["dataset"]][:]
    assert frames.shape == (3, 64, 64)
    assert [event["data"]["image_det_total"] for event in documents["event"]] == [frame.sum() for frame in frames]
    assert [datum["indices"]["start"] for datum in documents["stream_datum"]] == [0, 1, 2]


def test_each_run_has_a_file_of_its_own(devices, run_engine, documents):
    run_engine(count([devices.image_det], 1))
    run_engine(count([devices.image_det], 2))

    paths = [_path(resource) for resource in documents["stream_resource"]]
    assert len(set(paths)) == 2
    assert all(path.is_file() for path in paths)


def test_the_spot_follows_its_motors(devices, run_engine, documents):
    run_engine(scan([devices.image_det], devices.motor1, -3, 3, 2))

    (resource,) = documents["stream_resource"]
    with h5py.File(_path(resource)) as file:
        frames = file[resource["parameters"]["dataset"]][:]
    brightest_columns = [int(frame.sum(axis=0).argmax()) for frame in frames]
    assert brightest_columns == pytest.approx([14, 50], abs=5)


def test_a_directory_that_cannot_be_written_fails_the_run_with_its_cause(devices, run_engine, tmp_path, documents):
    (tmp_path / "images").write_text("in the way")

    with pytest.raises(Exception, match="image_det"):
        run_engine(count([devices.image_det], 1))

    assert documents["stop"][-1]["exit_status"] == "fail"


@pytest.mark.parametrize(("directory_mode", "file_mode"), [(0o700, 0o600), (0o755, 0o644)])
def test_images_are_as_open_to_others_as_the_directory_that_was_given(
    run_engine, documents, tmp_path, directory_mode, file_mode
):
    (tmp_path / "images").mkdir(mode=directory_mode)
    (tmp_path / "images").chmod(directory_mode)
    run_engine(count([make_devices(tmp_path / "images").image_det], 1))

    path = _path(documents["stream_resource"][0])
    assert oct(path.stat().st_mode & 0o777) == oct(file_mode)
    assert oct(path.parent.stat().st_mode & 0o777) == oct(directory_mode)
