"""Data that are what was promised pass; data that are really broken fail, with the reason."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import bluesky.plans as bp
import bluesky.preprocessors as bpp
import httpx
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky_tiled_plugins import TiledWriter

from bluesky_prefect.cli._demo import _plans
from bluesky_prefect.core import markdown_literal
from bluesky_prefect.flows import data_validation
from bluesky_prefect.sim import make_devices
from bluesky_prefect.tiled_api import read_part
from tests.services.prefect_process import ask
from tests.system.beamline import Beamline
from tests.system.flow_room import room_for, settings_from


@pytest.fixture(scope="module")
def room(stack, tmp_path_factory):
    # No file is late here.
    late = {"BLUESKY_PREFECT_FILES_TIMEOUT_S": "0.5"}
    with room_for(stack, tmp_path_factory.mktemp("validation")) as room, settings_from(late):
        yield room


@pytest.fixture(scope="module")
def beamline(room):
    return Beamline(room.tiled["raw"], room.stack.images)


def test_healthy_runs_of_every_kind_pass(room, beamline):
    for kind, uid in beamline.all_kinds().items():
        state = data_validation(uid, return_state=True)
        assert state.is_completed(), (kind, state.message)
        assert ("warning" in state.message) is (kind == "arrays"), (kind, state.message)


def test_runs_of_the_demo_pass(room, beamline):
    for plan in _plans(make_devices(room.stack.images)):
        for uid in beamline.run(plan):
            state = data_validation(uid, return_state=True)
            assert state.is_completed(), state.message
            assert "warning" not in state.message


def files_of(room, uid, name):
    sources = room.tiled["raw"][uid]["primary"].base[name].data_sources()
    return [Path(unquote(urlsplit(asset.data_uri).path)) for source in sources for asset in source.assets]


def delete(path):
    path.unlink()


def truncate(path):
    os.truncate(path, path.stat().st_size - 100)


def empty(path):
    os.truncate(path, 0)


def shrink(path):
    np.save(path, np.zeros((10, 9)))


def archive(path):
    with path.open("wb") as file:
        np.savez(file, image=np.zeros((10, 10)))


@pytest.mark.parametrize(
    ("device", "damage", "told"),
    [
        ("img", archive, "cannot be opened"),
        ("image_det", archive, "cannot be opened"),
        ("img", delete, "is not there"),
        ("img", truncate, "cannot be opened"),
        ("img", empty, "is empty"),
        ("img", shrink, "they hold 190 values, not 200"),
        ("image_det", delete, "is not there"),
        ("image_det", truncate, "cannot be opened"),
    ],
)
def test_a_file_that_is_gone_or_damaged_fails_the_run_and_is_named(room, beamline, device, damage, told):
    made = make_devices(room.stack.images).image_det if device == "image_det" else beamline.devices.img
    [uid] = beamline.run(bp.count([made, beamline.devices.det], 2))
    file = files_of(room, uid, device)[-1]
    assert data_validation(uid, return_state=True).is_completed()

    damage(file)

    state = data_validation(uid, return_state=True)
    assert state.is_failed()
    assert f"broken data: primary, {device}: files: " in state.message
    assert told in state.message
    assert damage is shrink or str(file) in state.message


# Of a server of one's own nobody here knows what it may read: so it is for this room with the stack's.


def outside(beamline, folder):
    """Take a run whose file lies where the server may not read it; return its uid and the file."""
    [uid] = beamline.run(bp.count([make_devices(folder).image_det, beamline.devices.det], 2))
    [file] = folder.rglob("*.h5")
    return uid, file


def test_a_whole_file_that_a_server_of_ones_own_cannot_read_is_a_warning(room, beamline, tmp_path):
    uid, file = outside(beamline, tmp_path)
    state = data_validation(uid, return_state=True)
    assert state.is_completed(), state.message
    assert "1 warning: primary, image_det: reading: Tiled cannot read it from 0 on (500)" in state.message
    assert f"{file} is there: let Tiled's user read it, and name {file.parent} under readable_storage" in state.message


def test_a_server_that_cannot_read_an_array_is_asked_three_times(room, beamline, tmp_path):
    uid, _ = outside(beamline, tmp_path)
    node = room.tiled["raw"][uid]["primary"].base["image_det"]
    answers = []
    hooks = node.context.http_client.event_hooks["response"]
    hooks.append(answers.append)
    before = list(hooks)
    with pytest.raises(httpx.HTTPStatusError):
        read_part(node, slice(0, 1))
    assert hooks == before
    hooks.remove(answers.append)
    assert [answer.status_code for answer in answers] == [500, 500, 500]


def test_a_broken_file_that_it_cannot_read_fails_the_run(room, beamline, tmp_path):
    uid, file = outside(beamline, tmp_path)
    os.truncate(file, file.stat().st_size - 100)
    state = data_validation(uid, return_state=True)
    assert state.is_failed()
    assert f"broken data: primary, image_det: files: {file} cannot be opened" in state.message


def test_a_missing_event_fails_the_run_and_the_table_says_where(room):
    writer = TiledWriter(room.tiled["raw"])

    def lossy(name, document):
        if name == "event_page" and document["seq_num"] == [2]:
            return
        if name == "event" and document["seq_num"] == 2 and document["data"].get("det") is not None:
            return
        writer(name, document)

    devices = make_devices(room.stack.images)
    engine = RunEngine(context_managers=[])
    engine.subscribe(lossy)
    uids = []
    plan = bpp.baseline_wrapper(bp.count([devices.det], 3), [devices.motor1])
    engine(plan, {"start": lambda _, document: uids.append(document["uid"])})
    [uid] = uids

    state = data_validation(uid, return_state=True)

    assert state.is_failed()
    assert "broken data: primary, points: 2 of 3 points (and 1 more)" in state.message
    asked = {"artifacts": {"key": {"any_": ["data-validation"]}}, "sort": "CREATED_DESC"}
    found = ask(room.stack, "POST", "/artifacts/filter", json=asked).json()
    [about] = [one["data"] for one in found if markdown_literal(uid) in one["description"]]
    assert '"check": "sequence numbers", "result": "broken", "detail": "2 is missing"' in about
    assert '"stream": "baseline", "check": "points", "result": "passed"' in about
