"""Files that the local stack's Tiled server refuses are known without asking it."""

from pathlib import Path

import pytest

from bluesky_prefect.core import Settings
from bluesky_prefect.tiled_api import ReadableStorage, readable_storage

STORAGE = ReadableStorage(server="http://127.0.0.1:8000", directories=(Path("/data"),), storage=(Path("/data"),))


@pytest.mark.parametrize("uri", ["file:///data/a.h5", "file://localhost/data/day/a.h5", "s3://bucket/a.h5", "file://["])
def test_what_lies_inside_or_is_no_file_is_not_refused(uri):
    assert STORAGE.refusal([uri]) == ""


@pytest.mark.parametrize("path", ["/database/a.h5", "/a.h5", "/other/a b.h5", "/%64ata/a.h5"])
def test_what_lies_outside_is_refused_with_the_option(path):
    told = STORAGE.refusal(["file:///data/b.h5", f"file://localhost{path}", f"file://localhost{path}"])
    assert told.startswith(f"{path} (and 1 more) lies outside the directories that Tiled may read: ")
    assert "bluesky-prefect up --readable " in told


def test_nothing_is_known_of_a_server_of_ones_own(tmp_path):
    STORAGE.save(Settings(state_directory=tmp_path).readable_path)
    for uri in ("http://127.0.0.1:8000", "http://localhost:8000/api/v1"):
        assert readable_storage(Settings(state_directory=tmp_path, tiled_uri=uri)) == STORAGE
    for uri in ("http://tiled.example.org:8000", "http://127.0.0.1:8001", None):
        assert readable_storage(Settings(state_directory=tmp_path, tiled_uri=uri)) is None
    other = Settings(state_directory=tmp_path / "other", tiled_uri="http://127.0.0.1:8000")
    assert readable_storage(other) is None
