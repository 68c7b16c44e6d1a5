"""Paths as they stand in the artifact that an export leaves."""

import json

import pytest

from bluesky_prefect.flows.exported_files import paths_in

ROWS = [{"file": "/data/scan_1.txt", "bytes": 3}, {"file": "/data/scan_1.csv", "bytes": 4}]


@pytest.mark.parametrize("data", [ROWS, json.dumps(ROWS)])
def test_paths_are_found_as_prefect_may_hand_them_out(data):
    assert paths_in(data) == ["/data/scan_1.txt", "/data/scan_1.csv"]


@pytest.mark.parametrize("data", [None, "{}", "[1]", [{}], "not JSON", {"file": 1}])
def test_somebody_elses_artifact_of_that_name_holds_none(data):
    assert paths_in(data) == []
