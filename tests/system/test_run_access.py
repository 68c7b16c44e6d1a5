"""A flow's way to a run and back, as any scientist's flow has it: read_run and write_result."""

import asyncio
import pickle
from pathlib import Path

import bluesky.plans as bp
import numpy as np
import pandas
import pytest

from bluesky_prefect import BlueskyPrefectError
from bluesky_prefect.core import FlowInputError, RunIncomplete, RunNotFound, get_settings
from bluesky_prefect.flows import read_run, write_result
from bluesky_prefect.journal import Journal
from bluesky_prefect.outbox._stopped_runs import StoppedRuns
from bluesky_prefect.tiled_api import Catalog, results_of
from tests.system.beamline import Beamline
from tests.system.flow_room import room_for, settings_from


@pytest.fixture(scope="module")
def room(stack, tmp_path_factory):
    with room_for(stack, tmp_path_factory.mktemp("own")) as room:
        yield room


@pytest.fixture(scope="module")
def beamline(room):
    return Beamline(room.tiled["raw"], room.stack.images)


@pytest.fixture(scope="module")
def uid(beamline):
    devices = beamline.devices
    [uid] = beamline.run(bp.scan([devices.det, devices.img], devices.motor, -2, 2, 5), sample="Cu")
    return uid


@pytest.fixture
def run(uid):
    return read_run(uid)


def results(uid):
    with Catalog.connect(get_settings()) as catalog:
        return results_of(catalog, uid)


def test_a_run_is_read_as_documents_tables_and_lazy_arrays(run, uid):
    assert (run.uid, run.start["sample"], run.stop["exit_status"]) == (uid, "Cu", "success")
    table = run.table()
    assert isinstance(table, pandas.DataFrame)
    assert table["motor"].tolist() == [-2, -1, 0, 1, 2]
    images = run.array("img")
    assert images[2].shape == images.shape[1:]
    assert np.asarray(images).sum() == images.read().sum() == np.prod(images.shape)
    assert pickle.loads(pickle.dumps(run)).array("img")[0].shape == images.shape[1:], "also in another process"


def test_what_a_run_does_not_have_is_said_with_what_it_has(run):
    with pytest.raises(FlowInputError, match=r"has no stream 'dark'. Its streams: primary\."):
        run.table("dark")
    with pytest.raises(FlowInputError, match=r"has no array 'det' in its stream 'primary'. Its arrays: img\."):
        run.array("det")


def test_a_run_is_read_where_a_loop_runs_too(uid):
    async def flow():
        return read_run(uid)

    assert asyncio.run(flow()).uid == uid


@pytest.mark.parametrize("ref", [987654, "no-such-run", -100000])
def test_a_run_that_is_not_there_is_an_error_of_one_line(room, ref):
    with pytest.raises(RunNotFound) as caught:
        read_run(ref)
    assert isinstance(caught.value, BlueskyPrefectError)
    assert "\n" not in str(caught.value)


def test_a_run_that_goes_on_is_waited_for_no_longer_than_is_set(room):
    room.tiled["raw"].create_container("goes-on", metadata={"start": {"uid": "goes-on", "time": 0, "scan_id": 8}})
    with (
        settings_from({"BLUESKY_PREFECT_STOP_TIMEOUT_S": "0.2"}),
        pytest.raises(RunIncomplete, match=r"has no stop document .* after 0\.2 s"),
    ):
        read_run("goes-on")
    room.tiled["raw"].delete_contents("goes-on", external_only=False)


def test_minus_one_is_never_the_run_before_the_one_just_taken(uid, tmp_path, monkeypatch):
    """As at a prompt, right after a scan: the courier has not taken it to Tiled yet."""
    stopped = StoppedRuns()
    stopped.note("just-taken", opted_out=False, started=(), known=(), outboxes=())
    monkeypatch.setattr("bluesky_prefect.flows.common._run_access.stopped_runs", stopped)
    journal = Journal(tmp_path / "journals", "just-taken")
    journal.append("start", {"uid": "just-taken", "time": 0})
    journal.close()
    waits = {"BLUESKY_PREFECT_STOP_TIMEOUT_S": "0.2", "BLUESKY_PREFECT_STATE_DIRECTORY": str(tmp_path)}
    with settings_from(waits), pytest.raises(RunIncomplete, match=r"just-tak.* is not in Tiled after"):
        read_run(-1)


def values(folder):
    file = folder / "plot.png"
    file.write_bytes(b"\x89PNG")
    named_rows = pandas.DataFrame({1: [0.5, np.nan]}, index=["mean", "std"])
    return {
        "array": (np.arange(6.0).reshape(2, 3), lambda read: read.tolist() == [[0, 1, 2], [3, 4, 5]]),
        "numbers": ([1, 2], lambda read: read.tolist() == [1, 2]),
        "table": (named_rows, lambda read: read["index"].tolist() == ["mean", "std"] and read["1"][0] == 0.5),
        "columns": ({"x": [1, 2], "y": np.array([0.1, 0.2])}, lambda read: read["y"].tolist() == [0.1, 0.2]),
        "file": (file, lambda read: read.tobytes() == b"\x89PNG"),
    }


@pytest.mark.parametrize("kind", ["array", "numbers", "table", "columns", "file"])
def test_a_result_is_beside_its_run_and_is_replaced(room, run, tmp_path, kind):
    value, is_right = values(tmp_path)[kind]
    for attempt in (1, 2):
        path = write_result(run, kind, value, attempt=attempt, error=np.float64("0.25"))
    assert path == f"processed/{kind}-{run.uid}"
    assert is_right(room.tiled["processed"][f"{kind}-{run.uid}"].read())
    [metadata] = [one for at, one in results(run.uid).items() if at == path]
    assert metadata["attempt"] == 2
    assert metadata["error"] == 0.25
    assert metadata["quantity"] == kind
    assert (metadata["raw_uid"], metadata["scan_id"], metadata["plan_name"]) == (run.uid, run.start["scan_id"], "scan")
    assert metadata.get("file") == ("plot.png" if kind == "file" else None)


def test_a_result_of_one_kind_is_replaced_by_one_of_another(room, run):
    write_result(run, "changes", [1.0, 2.0])
    write_result(run, "changes", {"x": [3.0]})
    assert room.tiled["processed"][f"changes-{run.uid}"].read()["x"].tolist() == [3.0]


@pytest.mark.parametrize(
    ("name", "value", "metadata", "said"),
    [
        ("a/b", [1], {}, "A result cannot be called 'a/b'"),
        ("fit", "plot.png", {}, "or the Path of a file"),
        ("fit", Path("no-such.png"), {}, "cannot be read from no-such.png"),
        ("fit", {"x": [1, 2], "y": [1]}, {}, "The result 'fit' cannot be written"),
        ("fit", [[1, 2], [3]], {}, "The result 'fit' cannot be written"),
        ("fit", [1], {"raw_uid": "other"}, "cannot have metadata raw_uid"),
    ],
)
def test_a_result_that_cannot_be_written_is_refused_before(run, name, value, metadata, said):
    with pytest.raises(FlowInputError, match=said):
        write_result(run, name, value, **metadata)
    assert not any(path.startswith("processed/fit") for path in results(run.uid))
