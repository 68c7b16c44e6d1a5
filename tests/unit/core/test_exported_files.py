"""Paths as they stand in the artifact that an export leaves."""

import json

import pytest

from bluesky_prefect.core import exported_files_table, exported_paths

ROWS = [{"file": "/data/scan_1.txt", "bytes": 3}, {"file": "/data/scan_1.csv", "bytes": 4}]


def test_what_is_written_is_what_is_read(tmp_path):
    paths = [tmp_path / "scan_1.txt", tmp_path / "scan 1.csv"]
    for path in paths:
        path.write_text("abc")
    table = exported_files_table(paths)
    assert [row["bytes"] for row in table] == [3, 3]
    assert exported_paths(json.dumps(table)) == [str(path) for path in paths]


@pytest.mark.parametrize("data", [ROWS, json.dumps(ROWS)])
def test_paths_are_found_as_prefect_may_hand_them_out(data):
    assert exported_paths(data) == ["/data/scan_1.txt", "/data/scan_1.csv"]


@pytest.mark.parametrize("data", [None, "{}", "[1]", [{}], "not JSON", {"file": 1}])
def test_somebody_elses_artifact_of_that_name_holds_none(data):
    assert exported_paths(data) == []
