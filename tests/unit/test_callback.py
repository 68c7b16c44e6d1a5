"""What the callback promises the RunEngine, with a real RunEngine and no Prefect."""

import logging
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky import preprocessors as bpp
from bluesky.utils import RunEngineInterrupted
from ophyd.sim import SynAxis, SynGauss, img

from bluesky_prefect import PrefectCallback, Settings, Workflow, succeeded
from bluesky_prefect import callback as callback_module
from tests.services.prefect_process import wait_until

pytestmark = pytest.mark.filterwarnings(
    # bluesky's RunEngine leaves its event loop to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture
def settings(tmp_path):
    return Settings(state_directory=tmp_path / "state")


@pytest.fixture
def make_callback(settings):
    made = []

    def make(workflows="my-workflow/local", **changes):
        callback = PrefectCallback(workflows, settings=settings.model_copy(update=changes))
        made.append(callback)
        return callback

    yield make
    for callback in made:
        callback.close()


@pytest.fixture
def motor():
    return SynAxis(name="motor")


@pytest.fixture
def det(motor):
    return SynGauss("det", motor, "motor", center=0, Imax=1, sigma=1)


@pytest.fixture
def run_engine():
    return RunEngine(context_managers=[])


def entries(callback):
    return list(reversed(callback.outbox.entries()))


def test_a_stop_document_puts_the_run_in_the_outbox(run_engine, make_callback, det):
    callback = make_callback()
    run_engine.subscribe(callback)
    [uid] = run_engine(bp.count([det], 3), sample="Fe")
    [entry] = entries(callback)
    assert entry.run_uid == uid
    assert entry.deployment == "my-workflow/local"
    assert entry.submission.start["sample"] == "Fe"
    assert entry.submission.stop["num_events"] == {"primary": 3}


def test_the_submission_is_on_disk_when_the_stop_document_returns(run_engine, make_callback, det):
    callback = make_callback()
    seen = []

    def after(name, doc):
        seen.append(len(entries(callback)))

    run_engine.subscribe(callback)
    run_engine.subscribe(after, "stop")
    run_engine(bp.count([det]))
    assert seen == [1]


def test_each_workflow_gets_the_runs_it_wants(run_engine, make_callback, det, motor):
    callback = make_callback(
        [
            "my-workflow/local",
            Workflow("end-of-run-workflow/tst-docker", when=succeeded),
            Workflow(
                "tomo-recon/gpu",
                when=lambda run: run.plan_name == "scan",
                parameters=lambda run: {"points": run.stop["num_events"]["primary"]},
            ),
        ]
    )
    run_engine.subscribe(callback)
    run_engine(bp.count([det]))
    run_engine(bp.scan([det], motor, -1, 1, 4))
    asked = [(entry.submission.start["plan_name"], entry.deployment) for entry in entries(callback)]
    assert asked == [
        ("count", "my-workflow/local"),
        ("count", "end-of-run-workflow/tst-docker"),
        ("scan", "my-workflow/local"),
        ("scan", "end-of-run-workflow/tst-docker"),
        ("scan", "tomo-recon/gpu"),
    ]
    assert entries(callback)[-1].submission.parameters == {"points": 4}


def test_a_run_that_opts_out_starts_nothing(run_engine, make_callback, det):
    callback = make_callback()
    run_engine.subscribe(callback)
    run_engine(bp.count([det]), prefect=False)
    assert entries(callback) == []


def test_an_aborted_run_and_a_failed_plan_are_submitted_too(run_engine, make_callback, det):
    callback = make_callback()
    run_engine.subscribe(callback)

    @bpp.run_decorator()
    def pausing():
        yield from bps.pause()

    @bpp.run_decorator()
    def failing():
        yield from bps.null()
        raise ValueError("the shutter is stuck")

    with pytest.raises(RunEngineInterrupted):
        run_engine(pausing())
    run_engine.abort("enough")
    with pytest.raises(ValueError, match="shutter"):
        run_engine(failing())
    assert [entry.submission.run.exit_status for entry in entries(callback)] == ["abort", "fail"]


def test_interleaved_runs_are_told_apart(run_engine, make_callback, det):
    callback = make_callback()
    run_engine.subscribe(callback)

    @bpp.set_run_key_decorator("outer")
    @bpp.run_decorator(md={"which": "outer"})
    def outer():
        yield from bps.trigger_and_read([det])
        yield from inner()
        yield from bps.trigger_and_read([det])

    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator(md={"which": "inner"})
    def inner():
        yield from bps.trigger_and_read([det])

    outer_uid, inner_uid = run_engine(outer())
    found = {entry.run_uid: entry.submission for entry in entries(callback)}
    assert found[outer_uid].start["which"] == "outer"
    assert found[inner_uid].start["which"] == "inner"
    assert found[outer_uid].stop["num_events"] == {"primary": 2}


def test_a_stop_whose_start_was_never_seen_is_submitted_with_what_is_known(make_callback):
    callback = make_callback()
    callback("stop", {"run_start": "abc", "exit_status": "success"})
    [entry] = entries(callback)
    assert entry.run_uid == "abc"
    assert entry.submission.start == {}


@pytest.mark.parametrize(
    "stop", [{}, {"run_start": None}, None, "text", 3, {"run_start": np.array([1, 2])}, {"uid": "only-its-own"}]
)
def test_a_broken_stop_document_leaves_a_record_and_raises_nothing(make_callback, stop):
    callback = make_callback()
    callback("stop", stop)
    assert len(entries(callback)) == 1


@pytest.mark.parametrize("name", ["start", "resource", "stream_resource", "descriptor", "event", "event_page", "what"])
@pytest.mark.parametrize("document", [None, {}, [], "text"])
def test_no_document_raises(make_callback, name, document):
    assert make_callback()(name, document) == (name, document)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_wants_to_end_the_process_is_not_held_up(make_callback, error):
    class Ending:
        def __repr__(self):
            raise error

    with pytest.raises(error):
        make_callback()("start", {"uid": "u", "x": Ending()})


@pytest.mark.parametrize("name", [None, ["stop"], {"stop": 1}, 3, b"stop"], ids=repr)
def test_a_name_that_is_none_raises_nothing(make_callback, name):
    assert make_callback()(name, {"run_start": "u"}) == (name, {"run_start": "u"})


def test_a_start_document_of_any_size_leaves_room_for_the_stop_document(make_callback):
    callback = make_callback()
    callback("start", {"uid": "u", "scan_id": 7, "many": list(range(60_000)), "long": "x" * 20_000_000})
    callback("stop", {"run_start": "u", "exit_status": "abort"})
    [entry] = entries(callback)
    assert entry.submission.run.scan_id == 7
    assert entry.submission.run.exit_status == "abort"


def test_metadata_of_any_kind_reaches_the_outbox(run_engine, make_callback, det):
    callback = make_callback()
    callback(
        "start",
        {
            "uid": "u",
            "array": np.arange(3),
            "nan": float("nan"),
            "bytes": b"\xff",
            "plan_name": "../../etc/x",
            "text": "x" * 1_000_000,
            "set": {1},
            "object": object(),
        },
    )
    callback("stop", {"run_start": "u"})
    [entry] = entries(callback)
    start = entry.submission.start
    assert start["array"] == [0, 1, 2]
    assert start["nan"] == "nan"
    assert start["bytes"] == r"b'\xff'"
    assert len(start["text"]) == 1_000_000
    assert start["object"].startswith("<object object")


def test_files_named_by_resource_documents_reach_the_workflow(make_callback):
    callback = make_callback(Workflow("a/b", parameters=lambda run: {"files": list(run.files)}))
    callback("start", {"uid": "u"})
    callback("resource", {"run_start": "u", "root": "/data", "resource_path": "one two.h5"})
    callback("resource", {"root": "/data/", "resource_path": "three.h5"})
    callback("stream_resource", {"run_start": "u", "uri": "file://localhost/data/four.h5"})
    callback("stream_resource", {"run_start": "u", "uri": "file://localhost/data/four.h5"})
    callback("stop", {"run_start": "u"})
    assert entries(callback)[0].submission.parameters == {
        "files": [
            "file://localhost/data/one%20two.h5",
            "file://localhost/data/three.h5",
            "file://localhost/data/four.h5",
        ]
    }


def test_a_file_whose_name_is_not_utf_8_is_known_by_its_bytes(make_callback):
    callback = make_callback(Workflow("a/b", parameters=lambda run: {"files": list(run.files)}))
    callback("start", {"uid": "u"})
    callback("resource", {"run_start": "u", "resource_path": os.fsdecode(b"/data/\xe9.h5")})
    callback("stop", {"run_start": "u"})
    assert entries(callback)[0].submission.parameters == {"files": ["file://localhost/data/%E9.h5"]}


def test_the_files_of_an_image_detector_are_known(run_engine, make_callback):
    callback = make_callback(Workflow("a/b", parameters=lambda run: {"file": run.files[0]}))
    run_engine.subscribe(callback)
    run_engine(bp.count([img]))
    assert entries(callback)[0].submission.parameters["file"].startswith("file://localhost/")


@pytest.mark.parametrize("argument", ["when", "parameters"])
def test_a_workflow_that_raises_leaves_a_dead_letter_and_the_plan_goes_on(run_engine, make_callback, det, argument):
    callback = make_callback([Workflow("a/b", **{argument: lambda run: run.start["missing"]}), "c/d"])
    run_engine.subscribe(callback)
    run_engine(bp.count([det]))
    [dead] = callback.outbox.entries(state="dead")
    assert "KeyError: 'missing'" in dead.reason
    assert dead.submission.undecided
    assert [entry.deployment for entry in callback.outbox.entries(state="waiting")] == ["c/d"]


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("no message")


@pytest.mark.parametrize("error", [ValueError("lone \ud800, \x00 and\nERROR forged"), Unreadable()])
def test_a_dead_letter_is_kept_whatever_the_workflow_raises(make_callback, error, caplog):
    def parameters(run):
        raise error

    callback = make_callback([Workflow("a/b", parameters=parameters), "c/d"])
    callback("stop", {"run_start": "u"})
    [dead] = callback.outbox.entries(state="dead")
    assert dead.reason.isprintable()
    assert [entry.deployment for entry in callback.outbox.entries(state="waiting")] == ["c/d"]
    assert "test_callback.py:" in caplog.text


class Unlistable(dict):
    def items(self):
        raise OSError("gone")


def test_parameters_that_cannot_be_read_make_a_dead_letter(make_callback):
    callback = make_callback(Workflow("a/b", parameters=lambda run: Unlistable(x=1)))
    callback("stop", {"run_start": "u"})
    [dead] = callback.outbox.entries(state="dead")
    assert "parameters= returned a Unlistable that cannot be read" in dead.reason


def test_a_disk_that_refuses_keeps_the_run_in_memory_and_says_so(run_engine, make_callback, det, tmp_path, caplog):
    (tmp_path / "state").write_text("a file where the directory should be")
    callback = make_callback()
    run_engine.subscribe(callback)
    with caplog.at_level(logging.ERROR):
        [uid] = run_engine(bp.count([det]))
    assert any(uid in record.getMessage() and record.levelno == logging.ERROR for record in caplog.records)
    (tmp_path / "state").unlink()
    deadline = time.monotonic() + 30
    while not (kept := entries(callback)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [entry.run_uid for entry in kept] == [uid]


def test_at_the_start_a_disk_that_refuses_is_told_once(make_callback, tmp_path, caplog):
    (tmp_path / "state").touch()
    callback = make_callback()
    wait_until(lambda: callback._forwarder._reminded)
    callback.close()
    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "Runs are kept in memory until it works again" in told


def test_runs_that_never_stop_do_not_pile_up(make_callback, caplog):
    callback = make_callback()
    for number in range(callback_module.MAX_OPEN_RUNS + 10):
        callback("start", {"uid": str(number)})
    assert len(callback._open_runs) == callback_module.MAX_OPEN_RUNS
    callback("stop", {"run_start": "0"})
    assert len(entries(callback)) == 1


def test_events_touch_neither_the_disk_nor_the_open_runs(make_callback, settings):
    callback = make_callback()
    callback("start", {"uid": "u"})
    before = settings.outbox_path.stat().st_mtime_ns
    for number in range(100):
        callback("event", {"seq_num": number})
    assert settings.outbox_path.stat().st_mtime_ns == before


def test_documents_may_come_from_several_threads(make_callback):
    callback = make_callback()

    def runs(name):
        for number in range(20):
            callback("start", {"uid": f"{name}{number}"})
            callback("stop", {"run_start": f"{name}{number}"})

    threads = [threading.Thread(target=runs, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries(callback)) == 60


def test_a_replay_from_elsewhere_works_as_a_run_does(run_engine, make_callback, det):
    documents = []
    run_engine.subscribe(lambda name, doc: documents.append((name, doc)))
    [uid] = run_engine(bp.count([det], 2))
    callback = make_callback()
    for _ in range(2):
        for name, doc in documents:
            callback(name, doc)
    assert [entry.run_uid for entry in entries(callback)] == [uid]


def test_importing_the_package_imports_neither_prefect_nor_tiled():
    code = (
        "import sys, bluesky_prefect; from bluesky_prefect import PrefectCallback, Workflow;"
        "PrefectCallback('a/b');"
        "heavy = {'prefect', 'tiled', 'matplotlib', 'pandas', 'bluesky', 'ophyd'} & set(sys.modules);"
        "print(heavy); sys.exit(bool(heavy))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
