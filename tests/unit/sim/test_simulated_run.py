"""A run for tests of flows, read as a flow reads one, and no server asked but its own."""

import numpy as np
from bluesky.plans import count

from bluesky_prefect.sim import make_devices, simulated_run


def test_a_simulated_run_has_tables_and_images_whatever_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setenv("BLUESKY_PREFECT_TILED_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("TILED_API_KEY", "another-server-s")
    devices = make_devices(tmp_path)
    with simulated_run(count([devices.det, devices.image_det], 2), tmp_path, sample="Cu") as run:
        assert run.start["sample"] == "Cu"
        assert len(run.table()) == 2
        images = run.array("image_det")
        assert images[1].shape == images.shape[1:] == (64, 64)
        assert np.asarray(images).shape == images.shape
