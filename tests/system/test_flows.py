"""Runs of every kind, from Tiled to files and back, through a real Prefect and a real Tiled server."""

import asyncio
import json
import re
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pandas
import pytest
import silx.io
from bluesky.plans import count, scan
from nexusformat.nexus import nxload
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices
from ophyd_async.sim import SimBlobDetector
from silx.io.nxdata import get_default
from tiled.queries import Key
from tiled.structures.core import Spec

from bluesky_prefect.core import (
    ConfigurationError,
    FlowInputError,
    RunIncomplete,
    RunNotFound,
    TiledUnavailable,
    as_json,
    get_settings,
    markdown_literal,
)
from bluesky_prefect.flows import export, my_workflow
from bluesky_prefect.flows.common._outside import Patience
from bluesky_prefect.flows.common._service_record import ServiceRecord
from bluesky_prefect.flows.weather._weather import get_weather, write_temperatures
from bluesky_prefect.sim import make_devices
from bluesky_prefect.tiled_api import Catalog, RunData
from tests.services.prefect_process import ask
from tests.system.beamline import Beamline
from tests.system.flow_room import room_for, settings_from

KINDS = [
    "count", "scan", "grid", "baseline", "images", "arrays", "text", "hostile", "nothing", "failed", "aborted", "outer",
    "inner",
]  # fmt: skip


@pytest.fixture(scope="module")
def room(stack, tmp_path_factory):
    with room_for(stack, tmp_path_factory.mktemp("flows")) as room:
        yield room


@pytest.fixture(scope="module")
def beamline(room):
    return Beamline(room.tiled["raw"], room.stack.images)


@pytest.fixture(scope="module")
def uids(beamline):
    return beamline.all_kinds()


@pytest.fixture(scope="module")
def exported(room, uids):
    """Export each run when it is first asked for, once."""
    folders = {}

    def folder(kind):
        if kind not in folders:
            folders[kind] = export(uids[kind])
        return folders[kind]

    return folder


def finished_run(catalog, ref, *, timeout_s):
    return asyncio.run(catalog.finished_run(ref, timeout_s=timeout_s))


def artifact(room, key, *, about, field="data"):
    """Return what the newest artifact of a key that is about a run holds, or another field of it."""
    asked = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
    response = ask(room.stack, "POST", "/artifacts/filter", json=asked)
    return next(
        one[field] for one in response.raise_for_status().json() if markdown_literal(about) in one["description"]
    )


def lines_of(room, folder):
    [text] = [content.decode() for name, content in room.files(folder).items() if name.endswith(".txt")]
    return text.splitlines()


def data_of(files):
    """Return the files that do not name the flow run that made them."""
    return {name: content for name, content in files.items() if not name.endswith(".txt")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_any_kind_is_exported_and_its_csv_is_what_tiled_holds(room, uids, exported, kind):
    run = room.tiled["raw"][uids[kind]]
    files = room.files(exported(kind))
    stem = "scan_{scan_id}_{plan_name}".format(**run.metadata["start"]).replace("../../", "_").replace("/", "_")
    assert set(files) == {
        f"{stem}.txt",
        f"{stem}.nxs",
        f"{stem}_plot.png",
        f"{stem}_temperature.png",
        *(f"{stem}_{stream}.csv" for stream in run),
        *([f"{stem}_images.png"] if kind in {"images", "arrays"} else []),
    }
    for stream in run:
        held = run[stream].base["internal"].read()
        written = pandas.read_csv(room.output / exported(kind) / f"{stem}_{stream}.csv")
        assert len(written) == len(held)
        for name in held.columns:
            if held[name].dtype.kind in "if":
                assert held[name].dtype == written[name].dtype
                np.testing.assert_array_equal(held[name], written[name])
    lines = lines_of(room, exported(kind))
    assert f"run uid:      {uids[kind]}" in lines
    assert f"exit status:  {run.metadata['stop']['exit_status']}" in lines
    assert "mean temperature: 61.5 °F" in lines


@pytest.mark.parametrize("kind", KINDS)
def test_a_nexus_file_is_what_tiled_holds_and_opens_on_the_plot(room, uids, exported, kind):
    run = room.tiled["raw"][uids[kind]]
    [file] = Path(exported(kind)).glob("*.nxs")
    with h5py.File(file) as root:
        entry = root["entry"]
        assert json.loads(entry["bluesky/start/data"].asstr()[()]) == json.loads(as_json(dict(run.metadata["start"])))
        for stream in run:
            held = run[stream].base["internal"].read()
            for name in held.columns:
                if held[name].dtype.kind in "if":
                    np.testing.assert_array_equal(entry[f"{stream}/{name}"], held[name])
    with silx.io.open(str(file)) as root:
        plot = get_default(root)
        shown = plot and (plot.signal_dataset_name, plot.axes_dataset_names)
    assert shown == {"nothing": None, "scan": ("det", ["motor"]), "grid": ("det4", ["motor1", "motor2"])}.get(
        kind, shown
    )
    assert (nxload(file).plottable_data is None) == (kind == "nothing")


def test_waveforms_are_datasets_in_a_nexus_file(exported):
    [file] = Path(exported("arrays")).glob("*.nxs")
    with h5py.File(file) as root:
        primary = root["entry/primary"]
        assert primary["wave"][0].tolist() == [0.1, 0.2, 0.1 + 0.2]
        np.testing.assert_array_equal(primary["frame"][1], np.arange(60.0).reshape(6, 10))
        assert primary["too_long"].attrs["tiled_path"].endswith("/primary/too_long")
        assert primary["count"][0] == 2**60 + 1


@pytest.mark.parametrize(("formats", "endings"), [("csv", {".csv"}), ("nexus", {".nxs"}), ("", set())])
def test_each_format_can_be_switched_off_and_leaves_nothing_of_an_earlier_export(room, uids, formats, endings):
    export(uids["baseline"])
    with settings_from({"BLUESKY_PREFECT_EXPORT_FORMATS": formats}):
        folder = export(uids["baseline"])
    assert {Path(name).suffix for name in room.files(folder)} == {".txt", ".png", *endings}
    export(uids["baseline"])


def test_a_nexus_file_that_cannot_be_written_fails_the_flow_and_costs_no_csv(room, uids):
    folder = Path(export(uids["failed"]))
    [file], [table] = folder.glob("*.nxs"), folder.glob("*.csv")
    file.unlink()
    file.mkdir()  # in its way
    table.unlink()
    state = export(uids["failed"], return_state=True)
    file.rmdir()
    assert state.is_failed()
    assert f"ExportFailed: The NeXus file {file} cannot be written (IsADirectoryError" in state.message
    assert table.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_any_kind_has_a_page_with_its_plot_and_its_columns_in_numbers(room, uids, exported, kind):
    folder = exported(kind)
    page = artifact(room, "run-summary", about=uids[kind])
    assert len(page) < 100_000
    assert "](data:image/png;base64," in artifact(room, "run-summary", about=uids[kind], field="description")
    assert f"({room.stack.tiled_uri}/ui/browse/raw/{uids[kind]})" in page
    assert f"| weather | {markdown_literal('50.0 to 73.0 °F, 61.5 °F on average,')}" in page
    for name in room.files(folder):
        assert f"| {markdown_literal(name)} | " in page
    rows = json.loads(artifact(room, "run-columns", about=uids[kind]))
    held = room.tiled["raw"][uids[kind]]
    assert {row["stream"] for row in rows} == set(held)
    for row in rows:
        if row["min"] is not None and not row["column"].startswith(("ts_", "time")):
            values = held[row["stream"]].base["internal"].read()[row["column"]]
            assert (row["min"], row["max"], row["points"]) == (values.min(), values.max(), len(values))


def test_a_dry_run_says_what_would_be_written_where_and_writes_nothing(room, uids, tmp_path, capfd):
    with settings_from({"BLUESKY_PREFECT_OUTPUT_DIRECTORY": str(tmp_path / "none")}):
        state = my_workflow(uids["grid"], dry_run=True, return_state=True)
        assert state.is_completed(), state.message
        assert not (tmp_path / "none").exists()
        planned = set(re.findall(r"Would write (\S+)", "".join(capfd.readouterr())))
        folder = export(uids["grid"])
    written = {str(path) for path in Path(folder).iterdir() if path.name != ".bluesky-run-uid"}
    assert written - planned == {path for path in written if path.endswith("_temperature.png")}
    assert planned <= written
    assert folder in state.message


def test_an_export_is_found_by_scan_id_plan_and_uid(room, uids):
    state = export(uids["scan"], return_state=True)
    assert state.message == "scan 2 scan: 11 points, 5 files"
    flow_run = ask(room.stack, "GET", f"/flow_runs/{state.state_details.flow_run_id}")
    assert flow_run.json()["name"] == f"scan-2-scan-{uids['scan'][:8]}-export"


def test_small_images_are_in_the_csv(room, uids, exported):
    run = room.tiled["raw"][uids["images"]]
    [csv] = [name for name in room.files(exported("images")) if name.endswith(".csv")]
    cells = pandas.read_csv(f"{exported('images')}/{csv}")["img"].tolist()
    assert [json.loads(cell) for cell in cells] == run["primary"]["img"].read().tolist()
    assert run["primary"]["img"].shape == (2, 10, 10)
    assert any(line.startswith("primary/img:") and ".npy" in line for line in lines_of(room, exported("images")))


def test_waveforms_are_json_up_to_a_length_and_referred_to_beyond(room, uids, exported):
    [csv] = [name for name in room.files(exported("arrays")) if name.endswith(".csv")]
    table = pandas.read_csv(f"{exported('arrays')}/{csv}")
    assert json.loads(table["wave"][0]) == [0.1, 0.2, 0.1 + 0.2]
    assert json.loads(table["long_wave"][1]) == np.linspace(0, 1, 100).tolist()
    assert json.loads(table["frame"][1]) == np.arange(60.0).reshape(6, 10).tolist()
    assert table["too_long"][1] == f"raw/{uids['arrays']}/primary/too_long[1]"
    assert table["count"][0] == 2**60 + 1
    assert np.isnan(table["hole"][0])


def test_text_in_the_data_is_no_formula(room, exported):
    [csv] = [name for name in room.files(exported("text")) if name.endswith(".csv")]
    assert pandas.read_csv(f"{exported('text')}/{csv}")["text"][0] == '\'=1+1, "x"\r\ny'


def test_hostile_metadata_stays_in_its_place(room, exported):
    folder = room.output / exported("hostile")
    assert folder.parent.parent == room.output
    lines = lines_of(room, folder)
    assert "plan:         ../../etc/x" in lines
    assert r"@SUM(1)\nexit status:  forged" in [line.partition("=cmd|A0:")[2].strip() for line in lines]
    assert "exit status:  forged" not in lines
    assert sum(map(len, lines)) < 10_000


def test_a_failed_run_says_why(room, exported):
    lines = lines_of(room, exported("failed"))
    assert "exit status:  fail" in lines
    assert r"reason:       boom\nexit status:  success" in lines


def test_the_temperatures_are_in_tiled_and_found_by_the_runs_uid(room, uids, exported):
    exported("scan")
    [table] = room.tiled["processed"].search(Key("raw_uid") == uids["scan"]).values()
    held = table.read()
    assert held["temperature_2m"].tolist() == [50.0 + hour for hour in range(24)]
    metadata = table.metadata
    today = metadata["date"]
    assert held["time"][3] == f"{today}T03:00"
    assert metadata["scan_id"] == 2
    assert metadata["plan_name"] == "scan"
    where = {"latitude": 40.86, "longitude": -72.87, "timezone": "America/New_York"}
    assert dict(metadata["place"]) == {"name": "Upton, New York", **where}
    assert metadata["unit"] == "fahrenheit"
    assert metadata["source_url"] == f"{room.weather.url}/v1/forecast"
    assert metadata["software"]["name"] == "bluesky-prefect"
    assert metadata["created"].startswith("20")


def test_exporting_again_writes_the_same_files_and_replaces_what_is_in_tiled(room, uids, exported):
    before = room.files(exported("grid"))
    [earlier] = room.tiled["processed"].search(Key("raw_uid") == uids["grid"]).values()
    assert export(uids["grid"]) == exported("grid")
    assert data_of(room.files(exported("grid"))) == data_of(before)
    # Of the same day in another unit: what is there is the newer one, and only that.
    export(uids["grid"], temperature_unit="celsius")
    [later] = room.tiled["processed"].search(Key("raw_uid") == uids["grid"]).values()
    assert (earlier.metadata["unit"], later.metadata["unit"]) == ("fahrenheit", "celsius")
    assert later.read()["temperature_2m"].tolist() == [50.0 + hour for hour in range(24)]
    [partition] = (room.stack.state_directory / "tiled").rglob(f"temperature-{uids['grid']}/*")
    assert partition.is_file()


def test_a_group_that_there_is_not_fails_an_export_in_a_line_before_it_writes(uids, tmp_path):
    output = tmp_path / "exports"
    settings = {"BLUESKY_PREFECT_EXPORT_GROUP": "no-such-group", "BLUESKY_PREFECT_OUTPUT_DIRECTORY": str(output)}
    with settings_from(settings), pytest.raises(ConfigurationError, match="'no-such-group'"):
        export(uids["count"])
    assert not output.exists()


def test_two_exports_of_one_run_at_once_leave_one_result(room, catalog):
    weather = {
        "latitude": 1.0, "longitude": 2.0, "timezone": "UTC", "date": "2026-05-01", "unit": "celsius", "symbol": "°C",
        "source": "x", "hours": ["2026-05-01T00:00", "2026-05-01T01:00"], "temperatures": [1.5, None],
        "sunrise": None, "sunset": None, "name": "",
    }  # fmt: skip
    run = RunData({"uid": "0123abcd", "scan_id": 1, "plan_name": "x" * 10_000}, {}, [], "raw/0123abcd")
    # As a process leaves it that dies between making the table and filling it.
    catalog.processed().write_table({"other": [1]}, key="temperature-0123abcd", metadata={})
    failures = []

    def write():
        try:
            write_temperatures(catalog, run, weather)
        except Exception as error:  # noqa: BLE001  (shown below)
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    [table] = room.tiled["processed"].search(Key("raw_uid") == "0123abcd").values()
    np.testing.assert_array_equal(table.read()["temperature_2m"], [1.5, np.nan])


@pytest.mark.parametrize(
    ("ref", "kind"),
    [
        (-1, "inner"),
        ("-2", "outer"),
        ("{uid}", "grid"),
        ("{partial}", "grid"),
    ],
)
def test_a_run_is_found_by_index_and_uid(catalog, uids, ref, kind):
    if isinstance(ref, str):
        ref = ref.format(uid=uids[kind], partial=uids[kind][:9])
    found = finished_run(catalog, ref, timeout_s=0)
    assert found.metadata["start"]["uid"] == uids[kind]


@pytest.fixture(scope="module")
def repeated(beamline):
    """Runs with a scan id that no other test has, and two with the next one."""
    return [beamline.run(count([beamline.devices.det], 1), scan_id=number)[0] for number in (81000, 81001, 81001)]


@pytest.mark.parametrize("ref", [81000, "81000", " 81000 "])
def test_a_run_is_found_by_scan_id(catalog, repeated, ref):
    assert finished_run(catalog, ref, timeout_s=0).metadata["start"]["uid"] == repeated[0]


@pytest.mark.parametrize("ref", [81001, "81001"])
def test_of_several_runs_with_a_scan_id_none_is_taken_and_all_are_listed(catalog, repeated, ref):
    with pytest.raises(FlowInputError, match="Scan id 81001 names several runs") as caught:
        finished_run(catalog, ref, timeout_s=0)
    _, newest, first = str(caught.value).splitlines()
    pattern = r"  {}  count  \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(pattern.format(repeated[2]), newest)
    assert re.fullmatch(pattern.format(repeated[1]), first)


@pytest.mark.parametrize("ref", [987654321, "987654321", -98765, "abcdef", "%%%%%", "_____"])
def test_an_unknown_run_is_an_error_that_names_it_and_the_catalog(room, catalog, uids, ref):
    with pytest.raises(RunNotFound, match=rf"catalog 'raw' of Tiled at {room.stack.tiled_uri}.*has no run"):
        finished_run(catalog, ref, timeout_s=60)


def test_a_run_that_never_comes_is_waited_for_by_its_full_uid(catalog):
    uid = "00000000-0000-0000-0000-000000000000"
    begun = time.monotonic()
    with pytest.raises(RunNotFound, match=r"after 0\.5 s of waiting"):
        finished_run(catalog, uid, timeout_s=0.5)
    assert time.monotonic() - begun >= 0.5


@pytest.mark.parametrize("ref", ["", "a/b", "abc", 1.5, True, None])
def test_what_cannot_name_a_run_is_refused_before_any_work(ref):
    with settings_from({"BLUESKY_PREFECT_TILED_URI": "http://127.0.0.1:9"}), pytest.raises(FlowInputError):
        asyncio.run(export.fn(ref))


@pytest.mark.parametrize(
    "arguments", [{"date": "2026-13-01"}, {"date": "tomorrow"}, {"timezone": "Mars/Olympus"}, {"lat": 91.0}]
)
def test_an_argument_that_cannot_be_used_is_a_clear_error_before_any_work(room, arguments):
    # Nothing listens there: any work would be another error.
    with settings_from({"BLUESKY_PREFECT_TILED_URI": "http://127.0.0.1:9"}), pytest.raises(FlowInputError):
        export(1, **arguments)


def test_the_export_waits_for_the_runs_end(room):
    raw = room.tiled["raw"]
    uid = "11111111-2222-3333-4444-555555555555"
    start = {"uid": uid, "time": 1777651200.25, "scan_id": 77, "plan_name": "slow"}

    def run():
        time.sleep(0.5)
        node = raw.create_container(uid, metadata={"start": start}, specs=[Spec("BlueskyRun", "3.0")])
        time.sleep(0.5)
        node.update_metadata({"stop": {"time": 1777651201.0, "exit_status": "success", "run_start": uid}})

    writer = threading.Thread(target=run)
    writer.start()
    folder = export(uid)
    writer.join()
    # The run's own day, in the time zone of the export.
    assert folder.endswith("2026-05-01/scan_77_slow_11111111")
    assert room.weather.requests[-1][0] == "/v1/archive"
    assert room.weather.requests[-1][1]["start_date"] == "2026-05-01"


def test_the_weather_s_place_and_the_time_zone_are_settings(room, uids):
    environment = {
        "BLUESKY_PREFECT_WEATHER_LATITUDE": "48.15",
        "BLUESKY_PREFECT_WEATHER_LONGITUDE": "11.58",
        "BLUESKY_PREFECT_WEATHER_PLACE": "Garching",
        "BLUESKY_PREFECT_TIMEZONE": "Europe/Berlin",
        "BLUESKY_PREFECT_OUTPUT_DIRECTORY": str(room.output.with_name("elsewhere")),
    }
    with settings_from(environment):
        lines = lines_of(room, export(uids["count"], date="2021-04-01"))
        by_hand = lines_of(room, export(uids["count"], date="2021-04-01", lat=1.5, timezone="UTC"))
    asked = [query for _, query in room.weather.requests[-2:]]
    assert [(one["latitude"], one["longitude"], one["timezone"]) for one in asked] == [
        ("48.15", "11.58", "Europe/Berlin"),
        ("1.5", "11.58", "UTC"),
    ]
    assert "place:            Garching" in lines
    assert "Garching" not in "".join(by_hand)
    [local], [utc] = ([line for line in one if line.startswith("start time:")] for one in (lines, by_hand))
    assert local.endswith(("+01:00", "+02:00"))
    assert utc.endswith("+00:00")


def test_a_run_that_does_not_end_is_an_error_that_says_what_to_do(room, catalog):
    uid = "22222222-2222-3333-4444-555555555555"
    start = {"uid": uid, "time": 1777651200.25, "scan_id": 78, "plan_name": "endless"}
    node = room.tiled["raw"].create_container(uid, metadata={"start": start}, specs=[Spec("BlueskyRun", "3.0")])
    with pytest.raises(RunIncomplete, match=rf"Run {uid} has no stop document .* after 0.3 s: .*STOP_TIMEOUT_S"):
        finished_run(catalog, 78, timeout_s=0.3)
    node.delete()


def test_the_weather_is_asked_for_once_a_day(room, exported):
    for kind in KINDS:
        exported(kind)
    today = [query for path, query in room.weather.requests if path == "/v1/forecast"]
    assert [query["temperature_unit"] for query in today].count("fahrenheit") == 1


def test_a_broken_cache_file_is_not_fatal(room, uids):
    asked = {
        "latitude": 1.0, "longitude": 2.0, "timezone": "UTC", "unit": "celsius", "name": "", "date": "2020-02-29",
        "source": f"{room.weather.url}/v1/archive", "timeout_s": 5.0, "patience": Patience(),
        "record": ServiceRecord("weather-archive", room.weather.url, room.state),
    }  # fmt: skip
    before = set(room.cache.iterdir())
    first = asyncio.run(get_weather(**asked))
    [file] = set(room.cache.iterdir()) - before
    requests = len(room.weather.requests)
    assert asyncio.run(get_weather(**asked)) == first
    assert len(room.weather.requests) == requests
    for broken in (b"", file.read_bytes()[:-20], b"\0" * 100):
        file.write_bytes(broken)
        assert asyncio.run(get_weather(**asked)) == first
        requests += 1
        assert len(room.weather.requests) == requests
        assert len(file.read_bytes()) > 100


def test_the_api_key_can_come_from_a_secret_block(room, uids):
    from prefect.blocks.system import Secret

    Secret(value=room.stack.tiled_api_key.get_secret_value()).save("tiled-key", overwrite=True)
    environment = {"TILED_API_KEY": None, "BLUESKY_PREFECT_TILED_API_KEY_BLOCK": "tiled-key"}
    with settings_from(environment), Catalog.connect(get_settings()) as catalog:
        assert finished_run(catalog, uids["count"], timeout_s=0) is not None


def test_tiled_can_be_named_by_a_profile(room, uids):
    profiles = Path.home() / ".config/tiled/profiles"
    profiles.mkdir(parents=True, exist_ok=True)
    (profiles / "flows.yml").write_text(f"beamline:\n  uri: {room.stack.tiled_uri}\n")
    environment = {"BLUESKY_PREFECT_TILED_URI": None, "BLUESKY_PREFECT_TILED_PROFILE": "beamline"}
    with settings_from(environment), Catalog.connect(get_settings()) as catalog:
        assert finished_run(catalog, uids["count"], timeout_s=0) is not None
    environment["BLUESKY_PREFECT_TILED_PROFILE"] = "absent"
    with settings_from(environment), pytest.raises(ConfigurationError, match="no Tiled profile 'absent'"):
        Catalog.connect(get_settings())
    with settings_from({"BLUESKY_PREFECT_TILED_URI": None}), pytest.raises(ConfigurationError, match="No Tiled server"):
        Catalog.connect(get_settings())


def test_a_refused_key_is_a_clear_error_without_the_key(room):
    with settings_from({"TILED_API_KEY": "deadbeef"}), pytest.raises(TiledUnavailable) as raised:
        Catalog.connect(get_settings())
    assert "HTTP status 401: set TILED_API_KEY" in str(raised.value)
    assert "deadbeef" not in str(raised.value)


def test_the_container_of_results_is_made_where_it_is_missing(room, uids):
    with settings_from({"BLUESKY_PREFECT_PROCESSED_CONTAINER": "analysed"}):
        export(uids["count"])
    assert f"temperature-{uids['count']}" in room.tiled["analysed"]


def test_frames_are_read_through_a_nexus_file_s_link(room, beamline):
    devices = make_devices(room.stack.images)
    with init_devices():
        blobs = SimBlobDetector(StaticPathProvider(UUIDFilenameProvider(), room.stack.images), name="blobs")
    [uid] = beamline.run(scan([devices.image_det, blobs], devices.motor1, -1, 1, 5))
    [file] = Path(export(uid)).glob("*.nxs")
    with h5py.File(file) as root:
        for key in ("image_det", "blobs"):
            link = root["entry/primary"].get(key, getlink=True)
            with h5py.File(link.filename) as detector:
                frames = detector[link.path][()]
            assert len(frames) == 5
            assert frames.any()
            np.testing.assert_array_equal(root[f"entry/primary/{key}"], frames)
            np.testing.assert_array_equal(root[f"entry/instrument/{key}/data"], frames)
            np.testing.assert_array_equal(room.tiled["raw"][uid]["primary"][key].read().reshape(frames.shape), frames)
    assert file.stat().st_size < 200_000
    with silx.io.open(str(file)) as root:
        plot = get_default(root)
        assert (plot.signal_dataset_name, plot.axes_dataset_names) == ("image_det_total", ["motor1"])
        np.testing.assert_array_equal(plot.axes[0], [-1, -0.5, 0, 0.5, 1])
