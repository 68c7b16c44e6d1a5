import gc
import sys
from pathlib import Path

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det, direct_img

from bluesky_prefect.core import Settings
from bluesky_prefect.session import _stranded as stranded
from bluesky_prefect.session._recorder import TiledRecorder
from bluesky_prefect.session._tiled import TiledConnection
from bluesky_prefect.tiled_api import in_use, read_documents
from tests.services.prefect_process import wait_until


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def recorder(tmp_path: Path, told: list[str]) -> TiledRecorder:
    # Port 1 needs privileges to listen on: nothing is there.
    settings = Settings(tiled_uri="http://127.0.0.1:1", state_directory=tmp_path)
    return TiledRecorder(TiledConnection(settings), directory=tmp_path / "unsaved-runs", tell=told.append)


def test_without_tiled_the_scan_runs_and_the_user_is_told_once(recorder, told, tmp_path):
    engine = RunEngine({"scan_id": 41})
    engine.subscribe(recorder)

    (uid,) = engine(count([det], 5))

    (line,) = told
    assert line.startswith(f"Run {uid[:8]} (scan 42) is not in Tiled")
    assert str(tmp_path / "unsaved-runs" / f"{uid}.msgpack") in line
    assert "refused" in line


def test_documents_of_a_run_that_is_not_in_tiled_are_kept_as_they_are(recorder, tmp_path):
    engine = RunEngine()
    documents: list[tuple[str, dict]] = []
    engine.subscribe(recorder)
    engine.subscribe(lambda name, doc: documents.append((name, doc)))

    (uid,) = engine(count([det, direct_img], 2), angles=np.arange(3), raw=b"\x00\xff", rate=float("nan"))

    kept = list(read_documents(tmp_path / "unsaved-runs" / f"{uid}.msgpack"))
    assert [name for name, _ in kept] == ["start", "descriptor", "event_page", "event_page", "stop"]
    np.testing.assert_array_equal(kept[0][1]["angles"], np.arange(3))
    assert kept[0][1]["raw"] == b"\x00\xff"
    assert np.isnan(kept[0][1]["rate"])
    np.testing.assert_array_equal(kept[2][1]["data"]["img"][0], documents[2][1]["data"]["img"])


def test_metadata_of_any_kind_is_kept_somehow(recorder, tmp_path):
    uid = "4b1e6d5c-0000-4000-8000-000000000000"
    start = {"uid": uid, "time": 0.0, "sample": object(), "count": 2**70, "name": "\ud800"}
    start["self"] = start

    recorder("start", start)
    recorder("stop", {"uid": "s", "run_start": uid, "time": 1.0, "exit_status": "success"})

    (_, kept), _ = read_documents(tmp_path / "unsaved-runs" / f"{uid}.msgpack")
    assert kept["uid"] == uid
    assert "object object" in kept["sample"]


def test_a_file_cut_short_gives_what_was_written(recorder, tmp_path):
    engine = RunEngine()
    engine.subscribe(recorder)
    (uid,) = engine(count([det], 2))
    path = tmp_path / "unsaved-runs" / f"{uid}.msgpack"
    path.write_bytes(path.read_bytes()[:-20])

    assert [name for name, _ in read_documents(path)] == ["start", "descriptor", "event_page", "event_page"]


def test_a_disk_that_refuses_is_said_and_stops_no_scan(recorder, told, tmp_path, caplog):
    (tmp_path / "unsaved-runs").write_text("in the way")
    engine = RunEngine()
    engine.subscribe(recorder)

    engine(count([det], 3))

    assert "only this session's memory" in told[0]
    assert len([record for record in caplog.records if "cannot be kept" in record.message]) == 1
    recorder._stranded.close(timeout_s=0.1)
    assert told[1].endswith("lost.")


def test_what_only_memory_holds_goes_to_the_disk_when_that_is_there_again(recorder, told, tmp_path):
    blocked = tmp_path / "unsaved-runs"
    blocked.write_text("in the way")
    engine = RunEngine()
    documents: list[tuple[str, dict]] = []
    engine.subscribe(recorder)
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    uids = [engine(count([det], 2))[0] for _ in range(2)]

    blocked.unlink()
    recorder.close()

    for uid in uids:
        kept = list(read_documents(blocked / f"{uid}.msgpack"))
        assert [name for name, _ in kept] == ["start", "descriptor", "event_page", "event_page", "stop"]
        assert not in_use(blocked / f"{uid}.msgpack")
    assert [doc["uid"] for name, doc in documents if name == "start"] == uids
    assert [line for line in told if "kept in" in line and "now" in line]


def test_where_tiled_cannot_be_imported_the_disk_gets_them_all_the_same(recorder, told, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bluesky_tiled_plugins", None)
    monkeypatch.setattr(stranded, "RETRY_S", 0.05)
    blocked = tmp_path / "unsaved-runs"
    blocked.write_text("in the way")
    engine = RunEngine()
    engine.subscribe(recorder)
    (uid,) = engine(count([det], 2))

    blocked.unlink()

    wait_until((blocked / f"{uid}.msgpack").exists)
    recorder.close()
    assert not [line for line in told if line.endswith("lost.")]


def test_a_document_that_makes_no_sense_raises_nothing(recorder):
    recorder("event", {"descriptor": "of no run"})
    recorder("stop", {})


def test_a_run_that_never_stops_lets_go_of_its_file_when_it_is_forgotten(tmp_path):
    path = tmp_path / "unsaved-runs" / "never-stops.msgpack"
    settings = Settings(tiled_uri="http://127.0.0.1:1", state_directory=tmp_path)
    recorder = TiledRecorder(TiledConnection(settings), directory=path.parent, tell=print)
    recorder("start", {"uid": "never-stops", "time": 0.0})
    assert in_use(path)

    del recorder
    gc.collect()

    assert not in_use(path)
