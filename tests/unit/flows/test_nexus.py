"""NeXus files hold what the run holds, and readers of NeXus open them on its plot."""

import json
import logging
import re
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pytest
import silx.io
from hypothesis import given
from hypothesis import strategies as st
from nexusformat.nexus import nxload
from nexusformat.nexus.validate import validate_file
from silx.io.nxdata import get_default

from bluesky_prefect.flows.export_parts._nexus import write_nexus
from bluesky_prefect.tiled_api import ArraySource, ExternalArray, RunData, Stream

START = {"uid": "6ab1d2a5-u", "time": 1_700_000_000.5, "scan_id": 12, "plan_name": "scan"}
STOP = {"run_start": "6ab1d2a5-u", "time": 1_700_000_010.0, "exit_status": "success"}
HDF5 = "application/x-hdf5"
HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "open-runs-as-nexus.md"


def data_keys(*names, **more):
    keys = {name: {"dtype": "number", "shape": [], "source": "test", "object_name": name} for name in names}
    return {**keys, **{name: {**keys.get(name, {}), **about} for name, about in more.items()}}


def run_of(*streams, stop=STOP, **start):
    return RunData({**START, **start}, stop, list(streams), "raw/u")


def primary(columns, keys=None, hinted=(), arrays=(), **metadata):
    hints = {"det": {"fields": list(hinted)}}
    metadata = {"data_keys": data_keys(*columns) if keys is None else keys, "hints": hints, **metadata}
    return Stream("primary", metadata, pyarrow.table(columns), list(arrays))


def scan(points=11, **start):
    motor = np.linspace(-1, 1, points)
    columns = {
        "seq_num": np.arange(1, points + 1),
        "time": 1_700_000_001.0 + np.arange(points),
        "motor": motor,
        "det": np.exp(-(motor**2)),
        "bdet-sum": np.arange(points) ** 2,
    }
    keys = data_keys("det", "bdet-sum", motor={"units": "mm", "object_name": "motor"})
    dimensions = {"dimensions": [[["motor"], "primary"]]}
    return run_of(primary(columns, keys, ["det", "bdet-sum"]), hints=dimensions, motors=["motor"], **start)


def grid(shape=(3, 4), snaking=False, rows=None):
    slow, fast = np.meshgrid(np.arange(shape[0]) * 1.0, np.arange(shape[1]) * 0.5, indexing="ij")
    values = np.arange(slow.size * 1.0).reshape(shape)
    if snaking:
        slow, fast, values = (np.array([line[:: 1 - number % 2 * 2] for number, line in enumerate(one)])
                              for one in (slow, fast, values))  # fmt: skip
    noise = np.random.default_rng(1).normal(0, 0.01, slow.shape)  # encoders are never quite there
    columns = {"y": slow + noise, "x": fast + noise, "det": values}
    columns = {name: column.reshape(-1)[:rows] for name, column in columns.items()}
    hints = {"dimensions": [[["y"], "primary"], [["x"], "primary"]]}
    return run_of(primary(columns, None, ["det"]), hints=hints, shape=list(shape), snaking=[False, snaking])


def written(run, path, sources=None, prefixes=None):
    with path.open("w+b") as file:
        write_nexus(run, file, sources or {}, prefixes or {})
    return path


def default_plot(path):
    """Return what two readers find: signal, axes, and names of these."""
    plot = nxload(path).plottable_data
    with silx.io.open(str(path)) as root:
        found = get_default(root)
        signal, axes = found.signal[()], [None if axis is None else axis[()] for axis in found.axes]
        names = found.signal_dataset_name, found.axes_dataset_names
    np.testing.assert_array_equal(plot.nxsignal.nxvalue, signal)
    assert plot.nxsignal.nxname == names[0]
    if all(names[1]):
        assert [axis.nxname for axis in plot.nxaxes] == names[1]
    return names, signal, axes


@pytest.fixture
def file(tmp_path):
    return tmp_path / "scan_12_scan.nxs"


def test_viewers_open_on_the_hinted_detector_against_the_scanned_motor(file):
    run = scan()
    names, signal, [axis] = default_plot(written(run, file))
    assert names == ("det", ["motor"])
    np.testing.assert_array_equal(signal, run.stream().table["det"])
    np.testing.assert_array_equal(axis, run.stream().table["motor"])
    with silx.io.open(str(file)) as root:
        found = get_default(root)
        assert found.title == "scan 12 (scan), run 6ab1d2a5-u"
        assert found.axes_names == ["motor (mm)"]
        assert found.auxiliary_signals_names == ["bdet-sum"]


@pytest.mark.parametrize("snaking", [False, True])
def test_a_grid_scan_opens_as_a_map(file, snaking):
    names, signal, axes = default_plot(written(grid(snaking=snaking), file))
    assert names == ("det", ["y", "x"])
    np.testing.assert_array_equal(signal, np.arange(12.0).reshape(3, 4))
    np.testing.assert_allclose(axes[0], [0, 1, 2], atol=0.05)
    np.testing.assert_allclose(axes[1], [0, 0.5, 1, 1.5], atol=0.05)


@pytest.mark.parametrize(("snaking", "last"), [(False, [4, 5, np.nan, np.nan]), (True, [np.nan, np.nan, 6, 7])])
def test_a_grid_scan_that_ended_early_opens_as_a_map_of_the_lines_begun(file, snaking, last):
    names, signal, axes = default_plot(written(grid(snaking=snaking, rows=6), file))
    assert names == ("det", ["y", "x"])
    np.testing.assert_array_equal(signal, [[0, 1, 2, 3], last])
    np.testing.assert_allclose(axes[0], [0, 1], atol=0.05)
    np.testing.assert_allclose(axes[1], [0, 0.5, 1, 1.5], atol=0.05)


def spiral():
    angle = np.arange(30) / 2
    table = {"y": angle * np.sin(angle), "x": angle * np.cos(angle), "det": angle}
    hints = {"dimensions": [[["y"], "primary"], [["x"], "primary"]]}
    return run_of(primary(table, None, ["det"]), hints=hints, shape=[5, 6])


@pytest.mark.parametrize("run", [spiral(), grid(rows=3)], ids=["spiral", "one line"])
def test_points_that_are_on_no_grid_open_as_points_of_a_plane(file, run):
    names, signal, axes = default_plot(written(run, file))
    assert names == ("det", ["x", "y"])
    table = run.stream().table
    np.testing.assert_array_equal(signal, table["det"])
    np.testing.assert_array_equal(axes, [table["x"], table["y"]])
    with silx.io.open(str(file)) as root:
        assert get_default(root).is_scatter


def test_frames_without_any_number_open_on_what_there_is(file):
    waves = [[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]
    names, signal, _ = default_plot(written(run_of(primary({"frame": [0, 1], "w3": waves}, data_keys("w3"))), file))
    assert names[0] == "w3"
    assert signal.tolist() == waves


@pytest.mark.parametrize(("table", "axis"), [({"frame": [0, 1]}, "frame"), ({}, None)])
def test_without_times_viewers_open_on_the_frames(file, table, axis):
    names, signal, _ = default_plot(
        written(run_of(primary({**table, "det": [1.5, 2.5]}, data_keys("det"), ["det"])), file)
    )
    assert names == ("det", [axis])
    assert signal.tolist() == [1.5, 2.5]


@pytest.mark.filterwarnings("ignore:.*set_bad:PendingDeprecationWarning")  # nexusformat of matplotlib
@pytest.mark.parametrize("run", [scan(), grid(), spiral()], ids=["scan", "grid", "spiral"])
def test_it_can_be_plotted(file, monkeypatch, run):
    monkeypatch.setenv("MPLBACKEND", "agg")
    from matplotlib import pyplot

    root = nxload(written(run, file))
    root.plottable_data.plot()
    axes = pyplot.gca()
    [shown] = [line.get_ydata() for line in axes.lines] or [mesh.get_array() for mesh in axes.collections]
    np.testing.assert_array_equal(np.ravel(shown), run.stream().table["det"])
    pyplot.close("all")


def test_without_a_motor_viewers_open_on_the_seconds_since_the_first_point(file):
    run = run_of(primary({"time": [1_700_000_001.0, 1_700_000_003.5], "det": [1, 2]}))
    names, signal, [axis] = default_plot(written(run, file))
    assert names == ("det", ["elapsed_time"])
    assert (signal.tolist(), axis.tolist()) == ([1, 2], [0, 2.5])


def test_without_a_number_viewers_open_on_waveforms(file):
    waves = [[0.1, 0.2, 0.1 + 0.2], [float("nan"), 1, 2]]
    keys = data_keys(wave={"dtype": "array"}, text={"dtype": "string"})
    columns = {"time": [0.0, 1.0], "text": ["a", "b"], "wave": waves}
    names, signal, axes = default_plot(written(run_of(primary(columns, keys)), file))
    assert names == ("wave", ["elapsed_time", None])
    np.testing.assert_array_equal(signal, waves)
    assert axes[1] is None


def test_the_examples_of_the_how_to_run(file, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(written(scan(), file).parent)
    for example in re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL):
        exec(compile(example, HOW_TO.name, "exec"), {})
    assert "scan 12 (scan) 1.0\nroot:NXroot\n" in capsys.readouterr().out


def test_nexusformat_s_check_against_the_nexus_definitions_finds_no_error(file, caplog):
    sample = {"name": "Si", "temperature": 300.0, "unknown": {"a": 1}}
    run = scan(sample=sample, user={"name": "Ada", "email": "ada@example.org"}, versions={"bluesky": "1.15"})
    waveforms = run_of(primary({"time": [0.0], "wave": pyarrow.array([[1.0, 2.0]])}))
    for one in (run, grid(), grid(rows=5), waveforms):
        with caplog.at_level(logging.CRITICAL, "NXValidate"):
            _, errors = validate_file(written(one, file))
        assert errors == 0


@given(st.lists(st.floats(), min_size=1), st.data())
def test_numbers_are_the_same_bits(floats, data):
    whole = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(floats), max_size=len(floats)))
    table = {"f": pyarrow.array(floats, pyarrow.float64()), "i": pyarrow.array(whole, pyarrow.int64())}
    with tempfile.TemporaryFile() as file:
        write_nexus(run_of(primary(table)), file, {}, {})
        root = h5py.File(file)
        assert root["entry/primary/f"][()].tobytes() == np.array(floats).tobytes()
        assert root["entry/primary/i"][()].tolist() == whole


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([True, False], [1, 0]),
        ([True, None], [1, np.nan]),
        ([1, None], [1, np.nan]),
        ([1.5, None], [1.5, np.nan]),
        ([None, None], [np.nan, np.nan]),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ([[1, 2], None], [[1, 2], [np.nan, np.nan]]),
        ([[[1], [2]], [[3], [4]]], [[[1], [2]], [[3], [4]]]),
        (pyarrow.FixedSizeListArray.from_arrays([1, 2, 3, 4], 2), [[1, 2], [3, 4]]),
        ([[1, 2], [3]], ["[1, 2]", "[3]"]),
        ([[], []], np.empty((2, 0))),
        (["a\0b", None], ["a\\x00b", ""]),
        (["Ångström", ""], ["Ångström", ""]),
        ([b"\xff", b"a"], ["\\xff", "a"]),
        (["[1, 2]", "[3, 4]"], ["[1, 2]", "[3, 4]"]),
        ([{"a": 1}, {"a": 2}], ['{"a": 1}', '{"a": 2}']),
    ],
)
def test_a_column_of_any_kind_is_a_dataset(file, column, expected):
    run = run_of(primary({"x": column if isinstance(column, pyarrow.Array) else pyarrow.array(column)}))
    with h5py.File(written(run, file)) as root:
        dataset = root["entry/primary/x"]
        values = dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()]
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("texts", [["[1, 2]", "[3]"], ["[1, 2]", None], ["nonsense", "[1]"], ["[1", "2]"], ["[null]"]])
def test_arrays_of_no_one_shape_stay_text(file, texts):
    run = run_of(primary({"x": texts}, data_keys(x={"dtype": "array"})))
    with h5py.File(written(run, file)) as root:
        assert root["entry/primary/x"].asstr()[()].tolist() == [text or "" for text in texts]


def test_waveforms_beyond_one_batch_are_all_there(file):
    waves = np.random.default_rng(1).random((2500, 3))
    run = run_of(primary({"x": waves.tolist()}, data_keys(x={"dtype": "array"})))
    with h5py.File(written(run, file)) as root:
        np.testing.assert_array_equal(root["entry/primary/x"], waves)


def test_what_is_large_is_compressed(file):
    with h5py.File(written(scan(points=100_000), file)) as root:
        dataset = root["entry/primary/bdet_sum"]
        assert (dataset.compression, dataset.shuffle) == ("gzip", True)
        assert dataset.id.get_storage_size() < dataset.nbytes / 2


def test_documents_devices_and_units_are_there(file):
    configuration = {"motor": {"data": {"motor_velocity": 1.5}, "data_keys": {"motor_velocity": {"units": "mm/s"}}}}
    run = scan(sample="Si \0", user=["Ada", {"name": "Bob"}], detectors=["det"], data_session="pass-1", cycle="2026-3")
    run.stream().metadata["configuration"] = configuration
    with h5py.File(written(run, file)) as root:
        entry = root["entry"]
        assert json.loads(entry["bluesky/start/data"].asstr()[()]) == run.start
        assert json.loads(entry["bluesky/stop/data"].asstr()[()]) == run.stop
        assert json.loads(entry["bluesky/descriptors/primary/data"].asstr()[()]) == run.stream().metadata
        texts = {name: node.asstr()[()] for name, node in entry.items() if isinstance(node, h5py.Dataset)}
        assert texts == {
            "title": "scan 12 (scan)",
            "start_time": "2023-11-14T22:13:20.500000+00:00",
            "end_time": "2023-11-14T22:13:30+00:00",
            "entry_identifier": "6ab1d2a5-u",
            "experiment_identifier": "pass-1",
            "run_cycle": "2026-3",
            "program_name": "bluesky",
        }
        assert (entry["bluesky/scan_id"][()], entry["bluesky/plan_name"].asstr()[()]) == (12, "scan")
        assert [entry[f"{name}/name"].asstr()[()] for name in ("sample", "user", "user_2")] == [
            "Si \\x00",
            "Ada",
            "Bob",
        ]
        instrument = entry["instrument"]
        classes = {name: node.attrs["NX_class"] for name, node in instrument.items()}
        assert classes == {"motor": "NXpositioner", "det": "NXdetector", "bdet_sum": "NXdetector"}
        assert instrument["motor/value"] == entry["primary/motor"]
        assert instrument["bdet_sum/data"] == entry["primary/bdet_sum"]
        assert instrument["motor/value"].attrs["units"] == "mm"
        assert instrument["motor/configuration/motor_velocity"][()] == 1.5
        assert instrument["motor/configuration/motor_velocity"].attrs["units"] == "mm/s"
        assert entry["primary/bdet_sum"].attrs["data_key"] == "bdet-sum"


HOSTILE = ["", ".", "..", "/", "../../x", "a/b", "a_b", "a b", "1", "\0", "é", "title", "errors", "x" * 300, "x" * 301]


def test_no_name_breaks_or_leaves_the_file(file):
    table = {name: [float(number)] for number, name in enumerate(HOSTILE)}
    streams = [Stream(name, primary(table).metadata, pyarrow.table(table), []) for name in ("data", *HOSTILE)]
    run = run_of(*streams, sample=dict.fromkeys(HOSTILE, "\ud800"), user={"name": "\0"}, motors=HOSTILE)
    with h5py.File(written(run, file)) as root:
        named = {node.attrs["stream"]: node for node in root["entry"].values() if "stream" in node.attrs}
        assert len(named) == len(streams)
        for group in named.values():
            values = sorted(float(node[0]) for node in group.values())
            assert values == list(range(len(HOSTILE)))
        assert root["entry/data"].attrs["NX_class"] == "NXdata"
        assert len(root["entry/sample"]) == len(HOSTILE)


def test_ten_thousand_columns_are_written(file):
    columns = {f"{number} c": [1.0, 2.0] for number in range(10_000)}
    run = run_of(primary(columns, {name: {"dtype": "number", "object_name": "det"} for name in columns}))
    with h5py.File(written(run, file)) as root:
        assert root["entry/primary/_9999_c"][()].tolist() == [1, 2]
        assert len(root["entry/instrument/det/readings"]) == 10_000


@pytest.mark.parametrize(
    "run",
    [
        run_of(),
        run_of(primary({"seq_num": [], "time": [], "det": []})),
        run_of(Stream("baseline", {}, pyarrow.table({"x": ["text"]}), [])),
        run_of(stop={}, hints="nonsense", shape="nonsense", sample=5, user=[None, {}], versions="x", motors=3),
    ],
)
def test_a_run_with_nothing_to_plot_is_written_and_opens_on_no_plot(file, run):
    assert nxload(written(run, file))["entry/entry_identifier"] == run.uid
    with silx.io.open(str(file)) as root:
        assert get_default(root) is None


def test_the_same_run_gives_the_same_bytes(tmp_path):
    first, second = (written(grid(), tmp_path / name).read_bytes() for name in ("1.nxs", "2.nxs"))
    assert first == second


def frames(path: Path, number, first=0):
    path.parent.mkdir(exist_ok=True)
    values = np.arange(first, first + number * 20, dtype="<u2").reshape(number, 4, 5)
    with h5py.File(path, "w") as root:
        root["entry/data/data"] = values
    return values


def with_images(sources, points=3, shape=None):
    image = ExternalArray("img", "raw/u/primary/img", shape or (points, 4, 5), "uint16", ["file://localhost/x"])
    stream = primary({"time": np.arange(points) * 1.0}, data_keys("img"), ["img"], [image])
    return run_of(stream), {image.path: sources}


def source(*paths, **parameters):
    return ArraySource(HDF5, [str(path) for path in paths], {"dataset": "/entry/data/data", **parameters})


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 1, 4, 5)])  # Tiled counts the frames of an event, files need not
def test_images_are_linked_to_and_viewers_open_on_them(file, tmp_path, shape):
    values = frames(tmp_path / "images.h5", 3)
    run, sources = with_images([source(tmp_path / "images.h5")], shape=shape)
    names, signal, axes = default_plot(written(run, file, sources))
    assert names == ("img", ["elapsed_time", None, None])
    np.testing.assert_array_equal(signal, values)
    assert axes[0].tolist() == [0, 1, 2]
    with h5py.File(file) as root:
        link = root["entry/primary"].get("img", getlink=True)
        assert isinstance(link, h5py.ExternalLink)
        assert (link.filename, link.path) == (str(tmp_path / "images.h5"), "/entry/data/data")
        np.testing.assert_array_equal(root["entry/instrument/img/data"], values)


def _args(run_and_sources, file):
    run, sources = run_and_sources
    return run, file, sources


def test_what_is_in_the_table_and_in_a_file_is_a_dataset_and_no_link(file):
    array = ExternalArray("det", "raw/u/primary/det", (2,), "float64", ["file://localhost/x.h5"])
    run = run_of(primary({"det": [1.5, 2.5]}, arrays=[array]))
    with h5py.File(written(run, file, {array.path: [source("/x.h5")]})) as root:
        assert list(root["entry/primary"]) == ["det"]
        assert root["entry/primary/det"][()].tolist() == [1.5, 2.5]


def test_waveforms_of_hdf5_files_are_linked_to_and_others_are_copied(file):
    waves = [ExternalArray(key, key, (2, 3), "float64", ["file://localhost/x"]) for key in ("linked", "copied")]
    run = run_of(primary({key: [[1.5, 2, 3], [4, 5, 6]] for key in ("linked", "copied")}, arrays=waves))
    npy = ArraySource("multipart/related;type=application/x-npy", ["/x_0.npy", "/x_1.npy"])
    with h5py.File(written(run, file, {"linked": [source("/x.h5")], "copied": [npy]})) as root:
        assert isinstance(root["entry/primary"].get("linked", getlink=True), h5py.ExternalLink)
        assert root["entry/primary/copied"][()].tolist() == [[1.5, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("apart", [False, True])
def test_an_array_in_several_files_is_one_dataset(file, tmp_path, apart):
    paths = [tmp_path / f"{number}.h5" for number in range(2)]
    values = np.concatenate([frames(paths[0], 2), frames(paths[1], 1, 100)])
    sources = [source(path) for path in paths] if apart else [source(*paths)]
    with h5py.File(written(*_args(with_images(sources), file))) as root:
        dataset = root["entry/primary/img"]
        assert dataset.is_virtual
        np.testing.assert_array_equal(dataset, values)


def test_several_files_that_cannot_be_opened_here_are_linked_to_one_by_one(file):
    with h5py.File(written(*_args(with_images([source("/elsewhere/1.h5", "/elsewhere/2.h5")]), file))) as root:
        group = root["entry/primary/img"]
        links = [group.get(f"part_{number}", getlink=True).filename for number in range(2)]
        assert links == ["/elsewhere/1.h5", "/elsewhere/2.h5"]


def test_a_file_with_links_to_files_that_are_gone_opens_all_the_same(file):
    run, sources = with_images([source("/elsewhere/1.h5")])
    assert nxload(written(run, file, sources))["entry/bluesky/scan_id"] == 12


@pytest.mark.parametrize("number", [1, 2])
def test_paths_are_those_of_whoever_reads_the_file(file, tmp_path, number):
    paths = [tmp_path / "ioc" / "deep" / f"{one}.h5" for one in range(number)]
    paths[0].parent.mkdir(parents=True)
    values = np.concatenate([frames(path, 1) for path in paths])
    prefixes = {f"{tmp_path}/ioc/": "/nowhere/", f"{tmp_path}/ioc/deep/": f"{tmp_path}/here/", "/": "/"}
    written(*_args(with_images([source(*paths)], points=number), file), prefixes)
    (tmp_path / "ioc" / "deep").rename(tmp_path / "here")
    with h5py.File(file) as root:
        np.testing.assert_array_equal(root["entry/primary/img"], values)


@pytest.mark.parametrize("number", [1, 2])
def test_files_that_have_moved_are_found_beside_the_nexus_file(file, tmp_path, number):
    paths = [tmp_path / "ioc" / f"{one}.h5" for one in range(number)]
    values = np.concatenate([frames(path, 1) for path in paths])
    written(*_args(with_images([source(*paths)], points=number), file))
    file.rename(tmp_path / "ioc" / "moved.nxs")
    (tmp_path / "ioc").rename(tmp_path / "away")
    with h5py.File(tmp_path / "away" / "moved.nxs") as root:
        np.testing.assert_array_equal(root["entry/primary/img"], values)


@pytest.mark.parametrize(
    "sources",
    [
        [ArraySource("multipart/related;type=image/tiff", ["/ioc/1.tiff", "/ioc/2.tiff"])],
        [source("/ioc/1.tiff", "/ioc/2.tiff", slice=":,0")],
        [ArraySource(HDF5, ["/ioc/1.tiff", "/ioc/2.tiff"])],
        [source("/ioc/1.tiff", "/ioc/2.tiff", dataset="a\0b")],
        [source("/ioc/1.tiff", "/ioc/2.tiff", dataset=["/entry/data/data"])],
    ],
)
def test_where_there_is_no_such_dataset_a_note_tells_of_the_files(file, sources):
    run, sources = with_images(sources)
    with h5py.File(written(run, file, sources, {"/ioc/": "/data/"})) as root:
        note = root["entry/primary/img"]
        assert note.attrs["NX_class"] == "NXnote"
        assert note["file_name"].asstr()[()].tolist() == ["/data/1.tiff", "/data/2.tiff"]
        assert note["type"].asstr()[()] == sources["raw/u/primary/img"][0].mimetype
        assert note.attrs["tiled_path"] == "raw/u/primary/img"
        assert note.attrs["shape"] == "[3, 4, 5]"
        assert set(root["entry/instrument/img"]) == {"local_name", "readings"}


def test_an_array_that_tiled_keeps_is_told_of(file):
    run, _ = with_images([])
    with h5py.File(written(run, file)) as root:
        assert root["entry/primary/img/description"].asstr()[()] == "img: an array that is in Tiled"
