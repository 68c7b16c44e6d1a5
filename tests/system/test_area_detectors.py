"""Detectors of ophyd-async: what is in their files is data like any other, and can be seen."""

import asyncio
import base64
import csv
import io
import json
import threading
import time
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
import silx.io
from bluesky import RunEngine
from bluesky_tiled_plugins import TiledWriter
from nexusformat.nexus import nxload
from ophyd_async.core import StaticPathProvider, TriggerInfo, UUIDFilenameProvider, init_devices
from ophyd_async.sim import PatternGenerator, SimBlobDetector, SimStage
from PIL import Image
from silx.io.nxdata import get_default

from bluesky_prefect.flows import data_validation, export, read_run
from tests.services.prefect_process import ask
from tests.system.flow_room import room_for, settings_from


class Detectors:
    """A RunEngine that writes to Tiled, a detector that writes HDF5, and the stage that moves what it sees."""

    def __init__(self, room):
        self.raw = room.tiled["raw"]
        self.engine = RunEngine(context_managers=[])
        self.engine.subscribe(TiledWriter(self.raw))
        pattern = PatternGenerator()
        with init_devices():
            self.detector = SimBlobDetector(
                StaticPathProvider(UUIDFilenameProvider(), room.stack.images), pattern, name="bdet"
            )
            self.stage = SimStage(pattern, name="stage")
        asyncio.run_coroutine_threadsafe(self._be_quick(), self.engine.loop).result(10)

    async def _be_quick(self):
        for motor in (self.stage.x, self.stage.y):
            await motor.velocity.set(1000)

    def run(self, plan):
        uids = []
        token = self.engine.subscribe(lambda name, document: uids.append(document["uid"]), "start")
        self.engine(plan)
        self.engine.unsubscribe(token)
        [uid] = uids
        return uid

    def scan(self, points=5):
        return self.run(bp.scan([self.detector], self.stage.x, -10, 10, points))

    def fly(self, frames=6):
        """A run of frames alone: no events."""

        @bpp.stage_decorator([self.detector])
        @bpp.run_decorator(md={"plan_name": "fly"})
        def plan():
            yield from bps.prepare(self.detector, TriggerInfo(number_of_events=frames), wait=True)
            yield from bps.declare_stream(self.detector, name="primary")
            yield from bps.kickoff(self.detector, wait=True)
            yield from bps.collect_while_completing(
                [self.detector], [self.detector], flush_period=0.1, stream_name="primary"
            )

        return self.run(plan())

    def bursts(self, frames=3):
        """Several frames for each event."""

        @bpp.stage_decorator([self.detector])
        @bpp.run_decorator(md={"plan_name": "bursts"})
        def plan():
            wanted = TriggerInfo(number_of_events=1, collections_per_event=frames)
            yield from bps.prepare(self.detector, wanted, wait=True)
            for x in (0, 5):
                yield from bps.mv(self.stage.x, x)
                yield from bps.trigger_and_read([self.detector, self.stage.x])

        return self.run(plan())

    def file_of(self, uid):
        [source] = self.raw[uid]["primary"].base["bdet"].data_sources()
        return Path(source.assets[0].data_uri.removeprefix("file://localhost"))

    def sums(self, uid):
        with h5py.File(self.file_of(uid)) as file:
            return file["entry/sum"][:].tolist()

    def rewrite(self, uid, change):
        """Change what is in the file of a run."""
        with h5py.File(self.file_of(uid), "r") as file:
            frames, sums = file["entry/data/data"][:], file["entry/sum"][:]
        frames, sums = change(frames, sums)
        with h5py.File(self.file_of(uid), "w") as file:
            file.create_dataset("entry/data/data", data=frames, maxshape=(None, *frames.shape[1:]))
            file.create_dataset("entry/sum", data=sums, maxshape=(None,))


@pytest.fixture(scope="module")
def room(stack, tmp_path_factory):
    with (
        room_for(stack, tmp_path_factory.mktemp("area")) as room,
        settings_from({"BLUESKY_PREFECT_FILES_TIMEOUT_S": "2"}),
    ):
        yield room


@pytest.fixture(scope="module")
def detectors(room):
    return Detectors(room)


def exported(room, uid):
    state = export(uid, return_state=True)
    assert state.is_completed(), state.message
    return state, room.files(state.result())


def table(files, stream="primary"):
    [content] = [content for name, content in files.items() if name.endswith(f"_{stream}.csv")]
    return list(csv.DictReader(io.StringIO(content.decode())))


def page_of(room, uid):
    """Return what the page of the run's flow run shows."""
    asked = {"artifacts": {"key": {"any_": ["run-summary"]}}}
    found = ask(room.stack, "POST", "/artifacts/filter", json=asked).raise_for_status().json()
    [page] = [one["description"] for one in found if uid in one["description"].replace("\\", "")]
    return page


def shown(page, title):
    """Return a picture of the page as pixels."""
    address = page.partition(f"![{title}](")[2].partition(")")[0]
    assert address.startswith("data:image/"), page[:300]
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(
    ("kind", "signal", "axis"),
    [("scan", "bdet_sum", "stage_x"), ("fly", "bdet_sum", "frame"), ("bursts", "stage_x", "elapsed_time")],
)
def test_a_nexus_file_holds_the_sums_and_links_to_the_frames(room, detectors, kind, signal, axis):
    uid = getattr(detectors, kind)()
    state, _ = exported(room, uid)
    [file] = Path(state.result()).glob("*.nxs")
    with h5py.File(file) as root, h5py.File(detectors.file_of(uid)) as its_own:
        primary = root["entry/primary"]
        assert isinstance(primary.get("bdet", getlink=True), h5py.ExternalLink)
        np.testing.assert_array_equal(primary["bdet"], its_own["entry/data/data"])
        np.testing.assert_array_equal(np.ravel(primary["bdet_sum"]), its_own["entry/sum"])
    with silx.io.open(str(file)) as root:
        plot = get_default(root)
        names = plot.signal_dataset_name, plot.axes_dataset_names[0]
    assert names == (signal, axis)
    assert nxload(file).plottable_data.nxsignal.nxname == signal


def test_scalars_in_the_file_of_a_step_scan_are_in_its_csv(room, detectors):
    uid = detectors.scan()
    _, files = exported(room, uid)
    rows = table(files)
    assert [int(row["bdet-sum"]) for row in rows] == detectors.sums(uid)
    assert len(set(detectors.sums(uid))) > 1
    assert rows[1]["bdet"] == f"raw/{uid}/primary/bdet[1]"


def test_a_fly_scan_without_events_has_a_row_for_each_frame(room, detectors):
    uid = detectors.fly(6)
    _, files = exported(room, uid)
    rows = table(files)
    assert [int(row["frame"]) for row in rows] == list(range(6))
    assert [int(row["bdet-sum"]) for row in rows] == detectors.sums(uid)


def test_several_frames_of_an_event_are_a_list_in_its_row(room, detectors):
    uid = detectors.bursts(3)
    _, files = exported(room, uid)
    sums = detectors.sums(uid)
    assert [json.loads(row["bdet-sum"]) for row in table(files)] == [sums[:3], sums[3:]]


def test_the_page_and_the_folder_show_the_images_of_a_scan(room, detectors):
    uid = detectors.scan()
    _, files = exported(room, uid)
    page = page_of(room, uid)
    assert len(page) < 100_000
    pixels = shown(page, "its images")
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    [picture] = [content for name, content in files.items() if name.endswith("_images.png")]
    assert Image.open(io.BytesIO(picture)).size[0] == 800


def test_the_sums_of_an_image_detector_are_plotted_over_a_grid(room, detectors):
    stage = detectors.stage
    uid = detectors.run(bp.grid_scan([detectors.detector], stage.x, -5, 5, 3, stage.y, -5, 5, 3))
    exported(room, uid)
    run = read_run(uid)
    stream, motors = run.scanned()
    assert motors == ["stage-x", "stage-y"]
    assert stream.detectors(motors) == ["bdet-sum"]
    assert stream.table["bdet-sum"].to_pylist() == detectors.sums(uid)
    plot = shown(page_of(room, uid), "the run, plotted")
    assert len(np.unique(plot.reshape(-1, 3), axis=0)) > 8


def test_a_grid_of_images_without_a_number_is_exported_and_plotted_by_their_sums(room, detectors):
    stage, detector = detectors.stage, detectors.detector
    seen = []

    def without_sums(name, document):
        if name == "descriptor":
            document = {**document, "data_keys": {k: v for k, v in document["data_keys"].items() if k != "bdet-sum"}}
            document["object_keys"] = {**document["object_keys"], "bdet": ["bdet"]}
        if document.get("data_key") == "bdet-sum":
            seen.append(document["uid"])
            return
        if document.get("stream_resource") not in seen or name != "stream_datum":
            writer(name, document)

    writer = TiledWriter(detectors.raw)
    engine = RunEngine(context_managers=[], loop=detectors.engine.loop)
    engine.subscribe(without_sums)
    [uid] = engine(bp.grid_scan([detector], stage.x, -5, 5, 3, stage.y, -5, 5, 3))
    state, _ = exported(room, uid)
    assert "warning" not in state.message
    plot = shown(page_of(room, uid), "the run, plotted")
    assert len(np.unique(plot.reshape(-1, 3), axis=0)) > 8


def test_an_analysis_reads_images_and_their_sums(room, detectors):
    uid = detectors.scan(3)
    run = read_run(uid)
    assert run.table()["bdet-sum"].tolist() == detectors.sums(uid)
    images = run.array("bdet")
    assert images.shape == (3, 1, 240, 320)
    assert [int(images[index].astype(int).sum()) for index in range(3)] == detectors.sums(uid)
    assert run.array("bdet-sum").read().tolist() == detectors.sums(uid)


@pytest.mark.parametrize("kind", ["scan", "fly", "bursts"])
def test_validation_passes_and_fails_when_a_frame_is_cut_out(room, detectors, kind):
    uid = getattr(detectors, kind)()
    state = data_validation(uid, return_state=True)
    assert state.is_completed(), state.message
    assert "warning" not in state.message

    detectors.rewrite(uid, lambda frames, sums: (frames[:-1], sums))

    state = data_validation(uid, return_state=True)
    assert state.is_failed()
    assert "broken data: primary, bdet: structure: its files hold [" in state.message


def test_more_frames_than_events_are_a_warning(room, detectors):
    uid = detectors.scan(3)
    detectors.rewrite(uid, lambda frames, sums: (np.concatenate([frames, frames[:1]]), sums))
    state = data_validation(uid, return_state=True)
    assert state.is_completed(), state.message
    assert "primary, bdet: structure: its files hold [4, 240, 320], not [3, 1, 240, 320]" in state.message


def test_what_tiled_has_wrong_of_a_file_is_repaired_only_when_asked(room, detectors):
    uid = detectors.scan(3)
    detectors.rewrite(uid, lambda frames, sums: (frames.astype("uint16"), sums))

    state = data_validation(uid, return_state=True)
    assert state.is_failed()
    assert "its files hold uint16, not uint8; data-validation with fix=True has Tiled take this over" in state.message
    assert data_validation(uid, return_state=True).is_failed()

    state = data_validation(uid, fix=True, return_state=True)
    assert state.is_completed(), state.message
    assert "repaired in Tiled" in state.message

    state = data_validation(uid, return_state=True)
    assert state.is_completed(), state.message
    assert "warning" not in state.message


def test_a_file_that_comes_late_is_waited_for(room, detectors):
    uid = detectors.scan(3)
    file = detectors.file_of(uid)
    away = file.rename(file.with_suffix(".late"))
    timer = threading.Timer(1.0, away.rename, [file])
    timer.start()
    began = time.monotonic()
    state, files = exported(room, uid)
    assert time.monotonic() - began > 1.0
    assert "warning" not in state.message
    assert [int(row["bdet-sum"]) for row in table(files)] == detectors.sums(uid)


def test_a_file_that_does_not_come_is_told_and_the_rest_is_exported(room, detectors):
    uid = detectors.scan(3)
    file = detectors.file_of(uid)
    file.unlink()
    state, files = exported(room, uid)
    assert "2 warnings: primary, bdet: Tiled cannot read it (" in state.message
    rows = table(files)
    assert [float(row["stage-x"]) for row in rows] == [-10, 0, 10]
    assert rows[2]["bdet-sum"] == f"raw/{uid}/primary/bdet-sum[2]"
    [text] = [content.decode() for name, content in files.items() if name.endswith(".txt")]
    assert str(file) in text.partition("Warnings\n")[2]
