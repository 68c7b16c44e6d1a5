"""Paths as they stand in the artifact that an export leaves."""

import json

import pytest

from bluesky_prefect.core import paths_in, table_of

ROWS = [{"file": "/data/scan_1.txt", "bytes": 3}, {"file": "/data/scan_1.csv", "bytes": 4}]


def test_what_is_written_is_what_is_read(tmp_path):
    paths = [tmp_path / "scan_1.txt", tmp_path / "scan 1.csv"]
    for path in paths:
        path.write_text("abc")
    table = table_of(paths)
    assert [row["bytes"] for row in table] == [3, 3]
    assert paths_in(json.dumps(table)) == [str(path) for path in paths]


@pytest.mark.parametrize("data", [ROWS, json.dumps(ROWS)])
def test_paths_are_found_as_prefect_may_hand_them_out(data):
    assert paths_in(data) == ["/data/scan_1.txt", "/data/scan_1.csv"]


@pytest.mark.parametrize("data", [None, "{}", "[1]", [{}], "not JSON", {"file": 1}])
def test_somebody_elses_artifact_of_that_name_holds_none(data):
    assert paths_in(data) == []
