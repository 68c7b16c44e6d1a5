"""Which directories Tiled is let read: those that hold data, and not the keys."""

import json
from pathlib import Path

import pytest

from bluesky_prefect.core import ConfigurationError, Settings
from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._readable import asked_for, choose_readable
from bluesky_prefect.stack._tiled import TiledServer
from bluesky_prefect.tiled_api import ReadableStorage


@pytest.fixture
def paths(tmp_path):
    paths = StackPaths(tmp_path / "beamline" / "state")
    paths.root.mkdir(parents=True)
    return paths


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_directories_are_added_to_earlier_ones_and_none_forgets_them(tmp_path, paths, data):
    assert asked_for([str(data)], (tmp_path,), paths) == (tmp_path, data)
    assert asked_for([str(data)], (data,), paths) == (data,)
    assert asked_for(["none", str(data)], (tmp_path,), paths) == (data,)
    assert asked_for(["none"], (tmp_path,), paths) == ()


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("data", "it is no absolute path"),
        ("{tmp}/not-there", "it is not a directory that is there"),
        ("{tmp}/file", "it is not a directory that is there"),
        ("/", "it holds every file of this machine"),
        ("{tmp}/..{tmp}/../../../../../../../../../..", "it holds every file of this machine"),
        ("{tmp}/link-to-root", "it holds every file of this machine"),
        ("{tmp}/beamline", "it shares files with the state directory"),
        ("{tmp}/beamline/state/prefect", "it shares files with the state directory"),
        ("{tmp}/link-to-state", "it shares files with the state directory"),
    ],
)
def test_what_must_not_be_read_is_refused_in_one_line(tmp_path, paths, data, named, told):
    (tmp_path / "file").touch()
    (tmp_path / "link-to-root").symlink_to("/")
    (tmp_path / "link-to-state").symlink_to(paths.root)
    with pytest.raises(ConfigurationError) as error:
        asked_for([named.format(tmp=tmp_path)], (), paths)
    assert told in str(error.value)
    assert "Check --readable or BLUESKY_PREFECT_READABLE." in str(error.value)
    assert "\n" not in str(error.value)


def test_the_setting_is_a_list_with_colons(monkeypatch, tmp_path, paths, data):
    monkeypatch.setenv("BLUESKY_PREFECT_READABLE", f"none:{data}:{data}")
    settings = Settings(state_directory=paths.root)
    assert settings.readable == ("none", str(data), str(data))
    assert choose_readable(settings, paths, is_running=False, report=print) == (data,)


def test_a_directory_that_comes_to_lead_to_the_keys_is_read_no_more(tmp_path, paths, data):
    link = tmp_path / "link"
    link.symlink_to(data)
    (tmp_path / "away").mkdir()
    settings = Settings(state_directory=paths.root)
    ReadableStorage(directories=(link, tmp_path / "away")).save(settings.readable_path)
    link.unlink()
    link.symlink_to(paths.root)
    (tmp_path / "away").rmdir()
    said = []
    assert choose_readable(settings, paths, is_running=False, report=said.append) == (tmp_path / "away",)
    assert f"may no longer read {link}" in said[0]
    assert f"may read {tmp_path / 'away'}, which is not there now" in said[1]


def test_tiled_knows_a_directory_by_both_of_its_names_and_keeps_its_own(tmp_path, paths, data):
    (tmp_path / "link").symlink_to(data)
    server = TiledServer(paths, 8000, "key", (tmp_path / "link",))
    server.catalog.parent.mkdir(parents=True)
    server.prepare()
    [tree] = json.loads((server.catalog.parent / "config.yml").read_text())["trees"]
    assert tree["args"]["readable_storage"] == [str(paths.images), str(tmp_path / "link"), str(data)]
    kept = ReadableStorage.load(Settings(state_directory=paths.root).readable_path)
    assert kept.directories == (tmp_path / "link",)
    assert set(map(str, kept.storage)) == {*tree["args"]["readable_storage"], str(paths.tiled / "data")}
    assert oct(Path(paths.readable).stat().st_mode & 0o777) == "0o600"
