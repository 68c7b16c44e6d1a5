"""What the callback promises the RunEngine, with a real RunEngine and no Prefect."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky import preprocessors as bpp
from bluesky.utils import RunEngineInterrupted
from ophyd.sim import SynAxis, SynGauss, img

from bluesky_prefect import Outbox, PrefectCallback, Settings, Workflow, WorkflowList, succeeded
from bluesky_prefect.callback import _open_runs
from bluesky_prefect.callback._recent_runs import RecentRuns
from bluesky_prefect.core import _submission as submission_module
from bluesky_prefect.core import jsonable
from bluesky_prefect.outbox import OutboxCounts, stopped_runs
from bluesky_prefect.prefect_api._client import flow_run_tags
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

    def make(workflows="my-workflow/local", only_ours=False, **changes):
        changed = settings.model_copy(update=changes)
        callback = PrefectCallback(workflows, settings=changed, only_ours=only_ours)
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
    """Return what the outbox holds of submissions, in order; refusals are none."""
    return [entry for entry in reversed(callback.outbox.entries()) if entry.state != "declined"]


def test_a_stop_document_puts_the_run_in_the_outbox(run_engine, make_callback, det):
    callback = make_callback()
    run_engine.subscribe(callback)
    [uid] = run_engine(bp.count([det], 3), sample="Fe")
    [entry] = entries(callback)
    assert entry.run_uid == uid
    assert entry.deployment == "my-workflow/local"
    assert entry.submission.start["sample"] == "Fe"
    assert entry.submission.stop["num_events"] == {"primary": 3}


def test_the_log_names_the_workflows_that_a_run_starts(run_engine, make_callback, det, caplog):
    run_engine.subscribe(make_callback(["my-workflow/local", "other/local"]))
    with caplog.at_level("INFO", "bluesky_prefect.callback"):
        [uid] = run_engine(bp.count([det]))
    assert f"scan-1-count-{uid[:8]} starts my-workflow/local, other/local" in caplog.messages


def test_a_start_document_that_is_too_large_keeps_all_that_routing_asks_for(run_engine, make_callback, det, caplog):
    counts = Workflow("all/local", when=lambda run: run.plan_name == "count" and run.start["shutter"] == "open")
    callback = make_callback([counts])
    run_engine.subscribe(callback)
    run_engine.md["mask"] = [[0] * 250 for _ in range(240)]
    [wanted] = run_engine(bp.count([det]), shutter="open")
    run_engine(bp.count([det]), shutter="open", prefect=False)
    [entry] = entries(callback)
    assert (entry.run_uid, entry.scan_id, entry.plan_name) == (wanted, 1, "count")
    assert flow_run_tags(entry.submission) == ["scan_id:1", "plan_name:count", f"uid:{wanted}"]
    assert "left out" in entry.submission.start["mask"]
    assert "Prefect does not get all of its start document" in caplog.text


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


def told(callback):
    """Return who is told of failed runs, of which, and why."""
    return [
        (one.deployment, one.scan_id, one.submission.run.exit_status, one.submission.stop["reason"])
        for one in entries(callback)
        if one.is_message
    ]


def channel(block, **changes):
    return Workflow(f"{block}/x", notify=f"slack/{block}", notify_on="run-failure", **changes)


def abort(run_engine, det, **metadata):
    def pausing():
        yield from bps.open_run(metadata)  # closed by bluesky, which drops the reason where a plan does so
        yield from bps.trigger_and_read([det])
        yield from bps.pause()

    with pytest.raises(RunEngineInterrupted):
        run_engine(pausing())
    run_engine.abort("beam dump")


def test_people_are_told_of_a_failed_run_once_whichever_workflows_say_so(run_engine, make_callback, det):
    workflows = [channel("hutch"), channel("hutch", name="second"), channel("shift"), Workflow("quiet/x")]
    callback = make_callback(workflows)
    run_engine.subscribe(callback)
    run_engine.subscribe(make_callback(workflows))
    abort(run_engine, det)
    run_engine(bp.count([det]))
    assert told(callback) == [(f"run-failure:slack/{name}", 1, "abort", "beam dump") for name in ("hutch", "shift")]


def test_people_are_told_of_failed_runs_of_the_kind_that_the_workflow_is_for(run_engine, make_callback, det):
    def is_tomo(run):
        return run.start["kind"] == "tomo" and run.exit_status == "success"

    def asks_too_much(run):
        return run.exit_status == "success" and run.stop["num_events"]["baseline"] > 0

    callback = make_callback(
        [channel("whole", when=succeeded), channel("tomo", when=is_tomo), channel("odd", when=asks_too_much)]
    )
    run_engine.subscribe(callback)
    abort(run_engine, det, kind="xas")
    assert [who for who, *_ in told(callback)] == ["run-failure:slack/whole", "run-failure:slack/odd"]
    assert [entry.state for entry in callback.outbox.entries() if not entry.is_message] == ["declined"] * 3


def test_nobody_is_told_of_a_failed_run_that_asks_for_no_workflow(run_engine, make_callback, det):
    callback = make_callback([channel("hutch")])
    run_engine.subscribe(callback)
    abort(run_engine, det, prefect=False)
    assert entries(callback) == []


def test_a_message_holds_no_metadata_but_what_it_tells(run_engine, make_callback, det):
    callback = make_callback([channel("hutch", when=succeeded)])
    run_engine.subscribe(callback)
    abort(run_engine, det, sample="secret")
    [message] = entries(callback)
    assert set(message.submission.start) == {"scan_id", "plan_name", "time"}
    assert set(message.submission.stop) == {"exit_status", "reason", "time"}


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


class Unlistable(UserDict):
    def items(self):
        raise OSError("gone")


def test_parameters_that_cannot_be_read_make_a_dead_letter(make_callback):
    callback = make_callback(Workflow("a/b", parameters=lambda run: Unlistable(x=1)))
    callback("stop", {"run_start": "u"})
    [dead] = callback.outbox.entries(state="dead")
    assert "parameters= returned a Unlistable that cannot be read" in dead.reason


def take_a_run(callback, uid="u", **start):
    callback("start", {"uid": uid, **start})
    callback("stop", {"run_start": uid})


def _is_srx(run):
    return run.start["beamline_id"] == "srx"


def test_where_documents_are_of_several_beamlines_only_ours_start_something(make_callback, caplog):
    callback = make_callback(WorkflowList("a/b", ours=_is_srx), only_ours=True)
    take_a_run(callback, "x", beamline_id="srx")
    take_a_run(callback, "y", beamline_id="hxn")
    take_a_run(callback, "nobody-knows")
    callback("stop", {"run_start": "no-start"})
    assert {one.run_uid for one in callback.outbox.entries()} == {"x", "nobody-knows", "no-start"}
    assert "Run nobody-knows is taken for one of ours" in caplog.text


def test_a_session_s_own_runs_are_the_beamline_s(make_callback):
    callback = make_callback(WorkflowList("a/b", ours=_is_srx))
    take_a_run(callback, beamline_id="hxn")
    assert callback.outbox.counts() == OutboxCounts(waiting=1)


def test_workflows_that_refused_the_run_are_known_with_the_others(make_callback):
    callback = make_callback(["a/b", Workflow("c/d", when=lambda run: False)])
    take_a_run(callback, scan_id=7, plan_name="count", large="x" * 10_000)
    [refused] = callback.outbox.entries(state="declined")
    assert (refused.run_uid, refused.workflow, refused.scan_id, refused.plan_name) == ("u", "c/d", 7, "count")
    assert len(refused.submission_json) < 500
    assert callback.outbox.declined(["u:a/b", "u:c/d", "v:c/d"]) == {"u:c/d"}
    assert callback.outbox.counts() == OutboxCounts(waiting=1, declined=1)


def test_a_run_that_opts_out_leaves_no_refusals(make_callback):
    callback = make_callback()
    take_a_run(callback, prefect=False)
    assert callback.outbox.entries() == []


def test_a_run_that_was_refused_and_is_wanted_now_is_submitted(make_callback):
    wanted = []
    callback = make_callback(Workflow("a/b", when=lambda run: bool(wanted)))
    take_a_run(callback, sample="Fe")
    wanted.append(True)
    callback("stop", {"run_start": "u"})
    [entry] = callback.outbox.entries()
    assert (entry.state, entry.submission.start["sample"]) == ("waiting", "Fe")
    wanted.clear()
    callback("stop", {"run_start": "u"})
    assert callback.outbox.counts() == OutboxCounts(waiting=1)


@pytest.fixture
def locked(settings):
    """Lock the outbox as a process does that was stopped in the middle of a write."""
    with ExitStack() as made:

        def lock():
            blocker = made.enter_context(closing(sqlite3.connect(settings.outbox_path, isolation_level=None)))
            blocker.execute("BEGIN IMMEDIATE")

        yield lock


def test_a_locked_outbox_holds_the_run_engine_for_a_second_in_all(make_callback, locked, caplog):
    callback = make_callback([f"a/{number}" for number in range(5)])
    take_a_run(callback, "before")
    locked()
    callback("start", {"uid": "u"})
    began = time.monotonic()
    callback("stop", {"run_start": "u"})
    assert time.monotonic() - began < 1.5
    [told] = [record for record in caplog.records if "kept in memory only" in record.getMessage()]
    assert "Run u" in told.getMessage()


DIE_IN_THE_SECOND_WHEN = """
import os, signal
from bluesky_prefect import PrefectCallback, Workflow
callback = PrefectCallback(["a/1", Workflow("a/2", when=lambda run: os.kill(os.getpid(), signal.SIGKILL)), "a/3"])
callback("start", {"uid": "u"})
callback("stop", {"run_start": "u"})
"""


def test_a_session_killed_while_workflows_decide_leaves_none_of_them(settings):
    environment = {**os.environ, "BLUESKY_PREFECT_STATE_DIRECTORY": str(settings.state_directory)}
    killed = subprocess.run([sys.executable, "-c", DIE_IN_THE_SECOND_WHEN], env=environment)
    assert killed.returncode == -signal.SIGKILL
    with closing(Outbox(settings.outbox_path)) as outbox:
        assert outbox.entries() == []


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_nothing_that_a_workflow_raises_comes_out_of_the_run_engine(run_engine, make_callback, det, error):
    def leave(run):
        raise error("enough")

    callback = make_callback(["a/1", Workflow("a/2", when=leave), Workflow("a/3", parameters=leave), "a/4"])
    run_engine.subscribe(callback)
    for _ in range(2):  # the RunEngine is as good as before
        run_engine(bp.count([det]))
    dead = callback.outbox.entries(state="dead")
    assert [entry.deployment for entry in reversed(dead)] == ["a/2", "a/3"] * 2
    assert all(entry.submission.undecided and f"{error.__name__}: enough" in entry.reason for entry in dead)
    waiting = callback.outbox.entries(state="waiting")
    assert [entry.deployment for entry in reversed(waiting)] == ["a/1", "a/4"] * 2


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_process_during_a_decision_does_so_after_the_record(make_callback, error):
    def interrupted(run):
        raise error

    callback = make_callback([Workflow("a/1", when=interrupted), "a/2"])
    with pytest.raises(error):
        take_a_run(callback, uid=error.__name__)
    assert callback.outbox.counts() == OutboxCounts(waiting=1, dead=1)
    assert stopped_runs.find(error.__name__).started == ("a/1", "a/2")


def test_a_large_start_document_is_converted_once_for_all_workflows(make_callback, monkeypatch):
    converted = []
    monkeypatch.setattr(submission_module, "jsonable", lambda value: converted.append(value) or jsonable(value))
    take_a_run(make_callback([f"a/{number}" for number in range(5)]), large=list(range(1000)))
    # It was when it arrived.
    assert sum("large" in value for value in converted if isinstance(value, dict)) == 0


def test_a_second_stop_sees_the_start_of_its_run(make_callback):
    asked = []
    callback = make_callback(Workflow("a/b", when=lambda run: bool(asked.append((dict(run.start), list(run.files))))))
    callback("start", {"uid": "u", "sample": "Fe"})
    callback("stream_resource", {"run_start": "u", "uri": "file://localhost/data/1.h5"})
    callback("stop", {"run_start": "u"})
    callback("stop", {"run_start": "u"})
    assert asked == [({"uid": "u", "sample": "Fe"}, ["file://localhost/data/1.h5"])] * 2


def test_a_second_stop_of_a_run_that_opted_out_starts_nothing(make_callback):
    callback = make_callback()
    take_a_run(callback, prefect=False)
    callback("stop", {"run_start": "u"})
    assert callback.outbox.entries() == []
    assert stopped_runs.find("u").opted_out


def test_a_workflow_that_changes_its_run_costs_no_record(make_callback):
    def spoil(run):
        run.start["spoilt"] = object()
        return True

    callback = make_callback([Workflow("a/b", when=spoil), Workflow("c/d", when=spoil)])
    take_a_run(callback, uid="spoilt")
    assert [entry.submission.start for entry in entries(callback)] == [{"uid": "spoilt"}] * 2
    assert stopped_runs.find("spoilt").started == ("a/b", "c/d")


def told_by_the_callback(caplog):
    """Return what it has logged itself; its forwarder tells at any time that no Prefect is configured."""
    return [record.getMessage() for record in caplog.records if record.name == "bluesky_prefect.callback._callback"]


def test_a_second_stop_doubles_nothing(make_callback, caplog):
    callback = make_callback(Workflow("a/b", parameters=lambda run: {"now": time.monotonic()}))
    take_a_run(callback)
    callback("stop", {"run_start": "u"})
    assert len(entries(callback)) == 1
    assert told_by_the_callback(caplog) == []


def test_a_late_stop_of_a_run_that_was_dropped_sees_its_start(make_callback):
    callback = make_callback()
    callback("start", {"uid": "late", "prefect": False})
    for number in range(_open_runs.MAX_OPEN_RUNS):
        callback("start", {"uid": str(number)})
    callback("stop", {"run_start": "late"})
    assert callback.outbox.entries() == []


def test_what_is_remembered_of_runs_may_be_asked_from_several_threads():
    runs = RecentRuns()

    def many(name):
        for number in range(3000):
            runs.remember(f"{name}{number}", {"text": "x" * 50_000}, [])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(many, "abcd"))
    kept = [uid for name in "abcd" for uid in (f"{name}{number}" for number in range(3000)) if runs.find(uid)]
    assert 600 < len(kept) < 640


def test_what_is_remembered_of_runs_is_bounded_in_number_and_size():
    runs = RecentRuns()
    for number in range(1500):
        runs.remember(str(number), {"uid": str(number)}, [])
    assert runs.find("499") is None
    assert runs.find("500") == [{"uid": "500"}, []]
    for number in range(5):
        runs.remember(str(number), {"text": "x" * 10_000_000}, [])
    assert [runs.find(str(number)) is not None for number in range(5)] == [False, False, True, True, True]
    runs.remember("4", {"text": "x" * 50_000_000}, [])
    assert runs.find("4") is None
    runs.remember("5", {}, [])
    assert runs.find("5") == [{}, []]


def test_two_callbacks_with_one_name_for_two_deployments_are_told_once(make_callback, caplog):
    one, two = make_callback(Workflow("a/one", name="process")), make_callback(Workflow("a/two", name="process"))
    for uid in ("u", "v"):
        for callback in (one, two):
            take_a_run(callback, uid)
    [told] = [record for record in caplog.records if record.levelno == logging.ERROR]
    for word in ("Run u", "'process'", "a/one", "a/two", "name="):
        assert word in told.getMessage()


def test_two_callbacks_with_one_name_for_other_parameters_are_told_once(make_callback, caplog):
    for binning in (1, 2):
        take_a_run(make_callback(Workflow("a/b", parameters={"binning": binning})))
    [told] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "with other parameters" in told.getMessage()


def test_a_workflow_that_refused_its_run_is_not_told_to_have_been_displaced(make_callback, caplog):
    take_a_run(make_callback(Workflow("a/one", name="process")))
    take_a_run(make_callback(Workflow("a/two", name="process", when=lambda run: False)))
    assert told_by_the_callback(caplog) == []


def test_the_same_workflow_in_two_callbacks_is_nothing_to_tell(make_callback, caplog):
    for _ in range(2):
        take_a_run(make_callback(["a/b", Workflow("c/d", parameters={"x": (1, 2)})]))
    assert told_by_the_callback(caplog) == []


@pytest.mark.parametrize(
    ("url", "kept"), [("http://me:s3cret@localhost:4200/api/?k=s3cret", "http://127.0.0.1:4200/api"), ("", None)]
)
def test_a_submission_knows_which_prefect_it_is_for(make_callback, monkeypatch, tmp_path, url, kept):
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    callback = make_callback()
    take_a_run(callback)
    [entry] = callback.outbox.entries()
    assert entry.api_url == kept


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
    wait_until(lambda: callback._forwarder._reminders.told)
    callback.close()
    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "Runs are kept in memory until it works again" in told


def test_runs_that_never_stop_do_not_pile_up(make_callback, caplog):
    callback = make_callback()
    for number in range(_open_runs.MAX_OPEN_RUNS + 10):
        callback("start", {"uid": str(number)})
    assert len(callback._open_runs) == _open_runs.MAX_OPEN_RUNS
    callback("stop", {"run_start": "0"})
    assert len(entries(callback)) == 1


def test_large_runs_that_never_stop_take_no_more_memory_than_a_few(make_callback, monkeypatch):
    monkeypatch.setattr(_open_runs, "_MAX_BYTES", 1_000_000)
    callback = make_callback()
    for number in range(30):
        callback("start", {"uid": str(number), "text": "x" * 100_000})
        callback("stream_resource", {"run_start": str(number), "uri": f"file://localhost/{'y' * 100_000}"})
    assert len(callback._open_runs) <= 5
    callback("stop", {"run_start": "0"})
    callback("stop", {"run_start": "29"})
    assert [len(one.submission.start["text"]) for one in entries(callback)] == [100_000] * 2


def test_runs_that_have_stopped_take_no_room_from_those_that_go_on(make_callback, monkeypatch):
    monkeypatch.setattr(_open_runs, "_MAX_BYTES", 1_000_000)
    callback = make_callback()
    for number in range(30):
        take_a_run(callback, str(number), text="x" * 100_000)
    callback("start", {"uid": "outer"})
    callback("start", {"uid": "inner"})
    assert len(callback._open_runs) == 2


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


def test_a_refusal_without_the_start_document_is_none(make_callback):
    callback = make_callback(Workflow("a/b", when=lambda run: run.plan_name == "count"))
    callback("stop", {"run_start": "u", "uid": "s", "exit_status": "success"})
    assert callback.outbox.entries(run_uid="u") == []


def test_what_a_workflow_changes_in_its_run_concerns_no_other(make_callback):
    def careless(run):
        run.start.pop("plan_name")
        run.stop.clear()
        return True

    callback = make_callback([Workflow("a/b", when=careless), Workflow("c/d", when=succeeded)])
    callback("start", {"uid": "u", "plan_name": "count"})
    callback("stop", {"run_start": "u", "exit_status": "success"})
    entries = callback.outbox.entries(run_uid="u")
    assert [entry.state for entry in entries] == ["waiting", "waiting"]
    assert {entry.submission.stop["exit_status"] for entry in entries} == {"success"}
    assert {entry.plan_name for entry in entries} == {"count"}
