"""A run's folder, and what a NeXus file that cannot be written costs."""

from types import SimpleNamespace
from zoneinfo import ZoneInfo

import h5py
import numpy as np
import pyarrow
import pytest

from bluesky_prefect.core import ExportFailed, Settings
from bluesky_prefect.flows.export_parts._data_files import write_nexus_file
from bluesky_prefect.flows.export_parts._run_folder import RunFolder
from bluesky_prefect.tiled_api import RunData, Stream
from tests.services.full_disk import full_disk

TILED = SimpleNamespace(name="Tiled")  # the run has no arrays to ask it for


@pytest.fixture
def run():
    values = np.random.default_rng(1).random(100_000)
    streams = [Stream("primary", {}, pyarrow.table({"x": values}), [])]
    return RunData({"uid": "6ab1d2a5", "time": 1.0, "scan_id": 12, "plan_name": "scan"}, {}, streams, "raw/6ab1d2a5")


@pytest.fixture
def folder(run, tmp_path):
    return RunFolder.of(run, ZoneInfo("UTC"), Settings(state_directory=tmp_path))


@pytest.fixture
def progress():
    return SimpleNamespace(percent=40.0)


def test_a_nexus_file_brings_the_progress_to_where_it_should(run, folder, progress):
    write_nexus_file(run, TILED, folder, Settings(), progress, upto=90.0)
    assert progress.percent == pytest.approx(90)
    assert [path.name for path in folder.files] == ["scan_12_scan.nxs"]


@pytest.mark.parametrize("size", [0, 100, 10_000, 400_000])
def test_a_disk_that_is_full_is_told_of_and_leaves_the_earlier_file(run, folder, progress, size):
    write_nexus_file(run, TILED, folder, Settings(), progress, upto=90.0)
    before = sorted(folder.path.iterdir())
    named = r"The NeXus file .*scan_12_scan\.nxs cannot be written \(.*\)\..*BLUESKY_PREFECT_EXPORT_FORMATS=csv exports"
    with full_disk(size), pytest.raises(ExportFailed, match=named):
        write_nexus_file(run, TILED, folder, Settings(), progress, upto=90.0)
    assert sorted(folder.path.iterdir()) == before
    with h5py.File(folder.file(".nxs")) as root:
        np.testing.assert_array_equal(root["entry/primary/x"], run.stream().table["x"])
