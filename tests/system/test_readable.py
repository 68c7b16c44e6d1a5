"""Files of detectors outside the directories that Tiled may read: told of, with the option; read once that is given."""

import json
import os
import signal

import bluesky.plans as bp
import numpy as np
import pytest

from bluesky_prefect.core import Settings, TiledUnavailable
from bluesky_prefect.flows import data_validation, export, read_run
from bluesky_prefect.sim import make_devices
from bluesky_prefect.stack import LocalStack
from tests.services.forked import run_command
from tests.system.beamline import Beamline
from tests.system.flow_room import room_for, settings_from


@pytest.fixture(scope="module")
def local(tmp_path_factory, outside_services, made_databases):
    """A stack of this module's own: it is started again with another directory."""
    state = tmp_path_factory.mktemp("readable") / "state"
    values = {"tiled_port": 0, "prefect_port": 0, "reconcile_every_s": 86400, **outside_services}
    local = LocalStack(Settings(state_directory=state, **values))
    made_databases.for_stack(local.paths.root)
    try:
        local.up(print)
        yield local
    finally:
        local.down(print, flow_runs_timeout_s=0)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    """The directory that a detector writes to, beside the stack's."""
    return tmp_path_factory.mktemp("detectors")


@pytest.fixture(scope="module")
def room(local, tmp_path_factory):
    with (
        room_for(local.find(), tmp_path_factory.mktemp("room")) as room,
        settings_from(
            {
                "BLUESKY_PREFECT_STATE_DIRECTORY": str(local.paths.root),
                "BLUESKY_PREFECT_FILES_TIMEOUT_S": "0.5",
            }
        ),
    ):
        yield room


@pytest.fixture(scope="module")
def uid(room, detectors):
    """A run with two frames, in a file of that detector."""
    beamline = Beamline(room.tiled["raw"], room.stack.images)
    [uid] = beamline.run(bp.count([make_devices(detectors).image_det, beamline.devices.det], 2))
    return uid


def command(local, *arguments):
    ports = {"BLUESKY_PREFECT_TILED_PORT": "0", "BLUESKY_PREFECT_PREFECT_PORT": "0"}
    return run_command(*arguments, "--state-directory", str(local.paths.root), env={**os.environ, **ports})


def file_of(detectors):
    [file] = detectors.rglob("*.h5")
    return file


def is_told_of(detectors, text):
    file = file_of(detectors)
    told = f"{file} lies outside the directories that Tiled may read: "
    return told in text and f"bluesky-prefect up --readable {file.parent} " in text


# In this order: before the directory is named, and after that.


def test_an_export_warns_of_a_file_tiled_may_not_read_and_completes(room, uid, detectors):
    state = export(uid, return_state=True)
    assert state.is_completed(), state.message
    assert is_told_of(detectors, state.message)
    files = room.files(state.result())
    [text] = [content.decode() for name, content in files.items() if name.endswith(".txt")]
    assert is_told_of(detectors, text.partition("Warnings\n")[2])
    [table] = [content.decode() for name, content in files.items() if name.endswith("_primary.csv")]
    header, *rows = table.splitlines()
    assert {"det", "image_det_total"} <= set(header.split(","))
    assert len(rows) == 2


def test_validation_passes_with_that_warning(room, uid, detectors):
    state = data_validation(uid, return_state=True)
    assert state.is_completed(), state.message
    assert "1 warning: primary, image_det: files: not read: " in state.message
    assert is_told_of(detectors, state.message)


def test_a_flow_that_reads_the_frames_is_told_so_too(room, uid, detectors):
    with pytest.raises(TiledUnavailable) as error:
        read_run(uid).array("image_det").read()
    assert is_told_of(detectors, str(error.value))


def test_check_names_the_option(local, room, uid, detectors):
    done = run_command("check", "--json", env={**os.environ, **room.stack.environment()})
    [files] = [one for one in json.loads(done.stdout)["findings"] if one["name"] == "files"]
    assert files["state"] == "problem"
    assert is_told_of(detectors, files["remedy"])


def test_a_missing_file_is_broken_data_wherever_it_should_be(room, uid, detectors):
    file = file_of(detectors)
    moved = file.rename(file.with_suffix(".moved"))
    try:
        state = data_validation(uid, return_state=True)
    finally:
        moved.rename(file)
    assert state.is_failed()
    assert f"broken data: primary, image_det: files: {file} is not there" in state.message


def test_up_with_a_directory_on_a_running_stack_says_how_to_change_it(local, detectors):
    done = command(local, "up", "--readable", str(detectors))
    assert done.returncode == 1
    told = "Tiled server: may read no directory but its own, not"
    assert f"{told} {detectors}. To change it: bluesky-prefect down, then up --readable {detectors}" in done.stderr


def test_after_up_with_its_directory_the_same_run_s_frames_are_read(local, room, uid, detectors):
    local.down(print, flow_runs_timeout_s=0)
    done = command(local, "up", "--readable", str(detectors))
    assert done.returncode == 0, done.stderr
    assert str(detectors) in done.stdout

    assert read_run(uid).array("image_det").read().shape == (2, 64, 64)
    state = data_validation(uid, return_state=True)
    assert state.is_completed(), state.message
    assert "warning" not in state.message
    assert "warning" not in export(uid, return_state=True).message


def test_status_shows_the_directory_and_up_asks_for_it_no_more(local, room, uid, detectors):
    assert f"Tiled reads detectors' files in: {detectors}\n" in command(local, "status").stdout
    assert json.loads(command(local, "status", "--json").stdout)["readable"] == [str(detectors)]
    for again in ((), ("--readable", str(detectors))):
        done = command(local, "up", *again)
        assert (done.returncode, done.stderr) == (0, "The stack is already running.\n")


def test_a_truncated_file_inside_the_directory_fails_the_run(room, uid, detectors):
    file = file_of(detectors)
    os.truncate(file, file.stat().st_size - 100)
    state = data_validation(uid, return_state=True)
    assert state.is_failed()
    assert f"broken data: primary, image_det: files: {file} cannot be opened" in state.message


def test_a_tiled_server_that_was_killed_comes_back_with_the_directory(local, room, detectors):
    os.kill(local.processes()["tiled"].pid, signal.SIGKILL)
    local.up(print)
    beamline = Beamline(room.tiled["raw"], room.stack.images)
    [uid] = beamline.run(bp.count([make_devices(detectors).image_det], 1))
    assert np.asarray(read_run(uid).array("image_det")).any()
