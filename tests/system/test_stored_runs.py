"""Runs out of a real Tiled server: none of a stretch of time is missed, whenever it was written."""

import sqlite3
import uuid
from contextlib import closing
from types import SimpleNamespace

import pytest
from bluesky.plans import count
from bluesky_tiled_plugins import TiledWriter
from sqlalchemy import select
from sqlalchemy.dialects import sqlite
from tiled.catalog import orm
from tiled.queries import Comparison, Eq

from bluesky_prefect import Workflow
from bluesky_prefect.core import FlowInputError, RunNotFound, jsonable
from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack.workarounds import _tiled_app as tiled_app
from bluesky_prefect.tiled_api import _stored_runs as runs_module
from bluesky_prefect.tiled_api import runs_between, runs_named, runs_with_uids
from tests.system.beamline import Beamline
from tests.system.flow_room import room_for

HOUR = 3600.0
# A week of 2001 that no other test's runs are in.
DAY = 1_000_000_000.0
# Scan ids that no other test's runs have.
IDS = 7_000_000


@pytest.fixture(scope="module")
def room(stack, tmp_path_factory):
    with room_for(stack, tmp_path_factory.mktemp("stored")) as room:
        yield room


@pytest.fixture(scope="module")
def archive(room):
    """Runs of one day in 2001, written today, in no order; their uids by name."""
    return {
        "late": write(room, DAY + 5 * HOUR, DAY + 6 * HOUR, scan_id=IDS + 5),
        "early": write(room, DAY - 9 * HOUR, DAY - 8 * HOUR, scan_id=IDS + 2),
        "long": write(room, DAY - 50 * HOUR, DAY + 2 * HOUR, scan_id=IDS + 1, plan_name="scan"),
        "open": write(room, DAY + 3 * HOUR, None, scan_id=IDS + 4),
        "open before": write(room, DAY - 3 * HOUR, None, scan_id=IDS + 3),
        "at the start": write(room, DAY - HOUR, DAY, scan_id=IDS + 8),
        "at the end": write(room, DAY + 9 * HOUR, DAY + 10 * HOUR, scan_id=IDS + 9),
        "over the end": write(room, DAY + 8 * HOUR, DAY + 11 * HOUR, scan_id=IDS + 9),
        "early again": write(room, DAY + HOUR, DAY + HOUR + 1, scan_id=IDS + 2),
        "clock set back": write(room, DAY + 12 * HOUR, DAY + 4 * HOUR, scan_id=IDS + 10, plan_name="list_scan"),
        "set back within": write(room, DAY + 7 * HOUR, DAY + 5 * HOUR, scan_id=IDS + 11, plan_name="list_scan"),
        "set back too far": write(room, DAY + 12 * HOUR, DAY - HOUR, scan_id=IDS + 12, plan_name="list_scan"),
    }


def write(room, start_s, stop_s, **metadata):
    """Write a run to Tiled; without a stop document if `stop_s` is None."""
    uid = str(uuid.uuid4())
    writer = TiledWriter(room.tiled["raw"])
    writer("start", {"uid": uid, "time": start_s, "plan_name": "count", **metadata})
    if stop_s is not None:
        stop = {"uid": f"{uid}-stop", "run_start": uid, "time": stop_s, "exit_status": "success", "num_events": {}}
        writer("stop", stop)
    return uid


def names(archive, runs):
    by_uid = {uid: name for name, uid in archive.items()}
    return [by_uid[run.uid] for run in runs]


@pytest.mark.parametrize("page", [1, 2, 300])
def test_a_window_holds_the_runs_that_stopped_in_it_or_are_open(catalog, archive, monkeypatch, page):
    monkeypatch.setattr(runs_module, "_PAGE", page)
    found = names(archive, runs_between(catalog, DAY, DAY + 10 * HOUR))
    expected = ["at the start", "clock set back", "early again", "late", "long", "open", "set back within"]
    assert sorted(found) == expected


def test_a_run_whose_clock_was_set_back_is_in_the_window_of_its_stop_once(catalog, archive):
    def found(begin_s, end_s):
        return sorted(names(archive, runs_between(catalog, begin_s, end_s, plan="list_scan")))

    assert found(DAY, DAY + 10 * HOUR) == ["clock set back", "set back within"]
    assert found(DAY + 6 * HOUR, DAY + 13 * HOUR) == []
    assert found(DAY - 2 * HOUR, DAY + 13 * HOUR) == ["clock set back", "set back too far", "set back within"]


def test_a_window_without_an_end_reaches_to_the_last_run(catalog, archive, room):
    uid = write(room, 4e9, 4e9 + 1)  # a clock that is far ahead
    assert [run.uid for run in runs_between(catalog, 4e9, None)] == [uid]
    assert uid not in {run.uid for run in runs_between(catalog, DAY, DAY + HOUR)}


@pytest.mark.parametrize(
    ("query", "sign"),
    [
        (Comparison("ge", "start.time", DAY), ">"),
        (Comparison("ge", "stop.time", DAY), ">"),
        (Eq("start.scan_id", IDS), "="),
    ],
)
def test_the_local_stack_searches_by_time_and_scan_id_with_an_index(stack, query, sign):
    asked = SimpleNamespace(conditions=[], new_variation=lambda conditions: conditions)
    [condition] = tiled_app.compared(query, asked)
    query_text = select(orm.Node.id).where(orm.Node.parent == 1, condition).compile(dialect=sqlite.dialect())
    with closing(sqlite3.connect(StackPaths(stack.state_directory).tiled / "catalog.db")) as database:
        plan = str(database.execute(f"EXPLAIN QUERY PLAN {query_text}", (1, query.value)).fetchall())
    assert f"INDEX bluesky_prefect_{query.key.replace('.', '_')} (parent=? AND <expr>{sign}?)" in plan


def test_a_window_can_be_of_one_plan_or_scan_id(catalog, archive):
    def found(**only):
        return sorted(names(archive, runs_between(catalog, DAY, DAY + 20 * HOUR, **only)))

    assert found(plan="scan") == ["long"]
    assert found(scan_id=IDS + 9) == ["at the end", "over the end"]
    assert found(plan="scan", scan_id=IDS + 9) == []


def test_runs_come_newest_first_with_the_documents_that_were_written(catalog, room):
    beamline = Beamline(room.tiled["raw"], room.stack.images)
    documents = {"start": [], "stop": []}
    for name, kept in documents.items():
        beamline.engine.subscribe(lambda _, document, kept=kept: kept.append(document), name)
    for _ in range(3):
        beamline.run(count([beamline.devices.det]))
    since, until = documents["start"][0]["time"], documents["stop"][-1]["time"]
    found = list(runs_between(catalog, since, until + 1e-3))
    assert [run.start for run in found] == [jsonable(document) for document in documents["start"][::-1]]
    assert [run.stop for run in found] == [jsonable(document) for document in documents["stop"][::-1]]


def test_files_are_asked_for_when_a_workflow_looks_at_them(catalog, room):
    beamline = Beamline(room.tiled["raw"], room.stack.images)
    [uid] = beamline.run(count([beamline.devices.img, beamline.devices.det], 2))
    [(_, run)] = runs_named(catalog, [uid])
    asked = []
    catalog.raw.context.http_client.event_hooks["request"].append(asked.append)
    without = Workflow("a/b", parameters=lambda run: {"uid": run.uid})
    assert without.when(run)
    assert without.parameters_for(run) == {"uid": uid}
    assert not asked
    looking = Workflow("a/b", parameters=lambda run: {"files": run.files})
    assert looking.parameters_for(run) == {"files": list(run.files)}
    assert asked
    assert len(run.files) == 2
    assert all(uri.startswith(f"file://localhost{room.stack.images}/") for uri in run.files)


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        (str(IDS + 5), ["late"]),
        (str(IDS + 3), ["open before"]),
        (f"{IDS + 3}..{IDS + 8}", ["open before", "open", "late", "at the start"]),  # nobody has + 6 and + 7
    ],
)
def test_runs_are_named_by_scan_id_or_a_range_with_holes(catalog, archive, ref, expected):
    found = list(runs_named(catalog, [ref]))
    assert names(archive, (run for _, run in found)) == expected
    assert {given for given, _ in found} == {ref}


@pytest.mark.parametrize("ref", [str(IDS + 2), f"{IDS + 1}..{IDS + 6}"])
def test_a_scan_id_of_several_runs_is_refused_with_their_uids(catalog, archive, ref):
    with pytest.raises(FlowInputError, match=f"Scan id {IDS + 2} names several runs") as caught:
        runs_named(catalog, [ref])
    listed = [line.split()[0] for line in str(caught.value).splitlines()[1:]]
    assert listed == [archive["early again"], archive["early"]]


def test_runs_are_named_by_uid_and_by_what_it_begins_with(catalog, archive):
    uid = archive["long"]
    assert [run.uid for _, run in runs_named(catalog, [uid, uid[:13]])] == [uid, uid]


def test_runs_are_named_by_how_long_ago_they_were_written(catalog, room, monkeypatch):
    monkeypatch.setattr(runs_module, "_PAGE", 2)
    uids = [write(room, DAY - 999 * HOUR, DAY - 998 * HOUR) for _ in range(5)]
    assert [run.uid for _, run in runs_named(catalog, ["-1", "-5..-2"])] == [uids[-1], *uids[:-1]]
    everything = list(runs_named(catalog, ["-1000000..-1"]))
    assert len(everything) == len(catalog.raw)
    assert [run.uid for _, run in everything[-5:]] == uids


@pytest.mark.parametrize("missing", [f"{IDS + 600}", f"{IDS + 600}..{IDS + 700}", str(uuid.UUID(int=5)), "-1000000"])
def test_one_name_of_nothing_is_told_before_any_run_is_given(catalog, archive, missing):
    with pytest.raises(RunNotFound, match=missing.replace("..", " to ")):
        runs_named(catalog, [archive["late"], missing])


def test_runs_are_found_by_many_uids_those_that_are_gone_left_out(room, archive, catalog, monkeypatch):
    monkeypatch.setattr(runs_module, "_UIDS", 5)
    wanted = [*archive.values(), "no-such-run"]
    assert {run.uid for run in runs_with_uids(catalog, wanted)} == set(archive.values())
