"""Files and results say what made them, and lead back to it."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import bluesky.plans as bp
import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from bluesky_prefect._version import __version__
from bluesky_prefect.core import PROVENANCE, FlowInputError, MadeBy, get_settings, provenance_in
from bluesky_prefect.flows import export, my_workflow, read_run, write_result
from bluesky_prefect.tiled_api import Catalog, results_of, run_without_streams
from bluesky_prefect.tiled_api import write_result as write_to
from bluesky_prefect.watch import UNCHANGED, file_origin
from tests.services.forked import run_command
from tests.services.prefect_process import wait_until
from tests.system.beamline import Beamline
from tests.system.flow_room import Room, room_for
from tests.system.hutch import DEPLOYMENT

FLOW_RUN = re.compile(r"flow run: +(\S+) \(([0-9a-f-]{36})\)")


@pytest.fixture(scope="module")
def room(stack, tmp_path_factory) -> Iterator[Room]:
    with room_for(stack, tmp_path_factory.mktemp("provenance")) as room:
        yield room


@pytest.fixture(scope="module")
def uid(room) -> str:
    beamline = Beamline(room.tiled["raw"], room.stack.images)
    [uid] = beamline.run(bp.count([beamline.devices.det], 2))
    return uid


@pytest.fixture
def folder(room, uid) -> Path:
    return Path(export(uid))


def results(uid):
    with Catalog.connect(get_settings()) as catalog:
        return results_of(catalog, uid)


def flows_of(room, path, *arguments):
    return run_command("flows", "--of", str(path), *arguments, env={**os.environ, **room.environment()})


def test_files_and_results_of_an_export_name_the_run_the_flow_run_and_the_version(folder, uid, catalog):
    known = provenance_in(folder)
    assert (known.run_uid, known.plan_name, known.software["version"]) == (uid, "count", __version__)
    assert known.made_by.flow == "export"
    assert known.made_by.deployment is None
    assert known.made_by.parameters["ref"] == uid
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(known.made_by.flow_run_id)).name == known.made_by.flow_run_name
    [about] = results_of(catalog, uid).values()
    assert about["made_by"] == known.made_by.model_dump(exclude_none=True)
    assert about["software"] == known.software
    [summary] = folder.glob("*.txt")
    assert FLOW_RUN.search(summary.read_text()).groups() == (known.made_by.flow_run_name, known.made_by.flow_run_id)
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == set(known.files)


def test_a_workflow_is_named_and_not_the_flow_within_it(room, uid):
    known = provenance_in(Path(my_workflow(uid)))
    assert known.made_by.flow == "my-workflow"
    assert known.made_by.parameters == {"ref": uid, "date": None, "dry_run": False}


def test_a_deployment_is_named_with_the_parameters_that_it_was_given(room, uid):
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("my-workflow/local")
        made = client.create_flow_run_from_deployment(deployment.id, parameters={"ref": uid, "date": "2021-02-01"})
        ended = wait_until(lambda: (one := client.read_flow_run(made.id)).state.is_final() and one, 120)
    assert ended.state.is_completed(), ended.state.message
    [folder] = [path.parent for path in room.stack.state_directory.rglob(PROVENANCE) if uid[:8] in str(path)]
    maker = provenance_in(folder).made_by
    assert (maker.flow_run_id, maker.flow_run_name, maker.deployment) == (str(made.id), made.name, "my-workflow/local")
    assert maker.parameters == {"ref": uid, "date": "2021-02-01"}


def test_a_result_of_one_s_own_flow_names_it_and_one_that_no_flow_made_names_none(room, uid):
    @flow(name="my-analysis")
    def my_analysis(ref: str, notes: str) -> None:
        write_result(read_run(ref), "mine", [1.0])

    my_analysis(uid, notes="n" * 5_000)
    about = results(uid)[f"processed/mine-{uid}"]
    assert about["made_by"]["flow"] == "my-analysis"
    assert about["made_by"]["parameters"] == {"ref": uid, "notes": "<left out: 5002 characters>"}
    write_result(read_run(uid), "mine", [2.0])
    assert "made_by" not in results(uid)[f"processed/mine-{uid}"]
    with pytest.raises(FlowInputError, match="cannot have metadata made_by"):
        write_result(read_run(uid), "mine", [2.0], made_by="me")


def test_a_command_goes_from_a_file_or_its_folder_back_to_the_flow_run(room, folder, uid):
    [csv] = folder.glob("*.csv")
    maker = provenance_in(folder).made_by
    done = flows_of(room, csv)
    assert done.returncode == 0, done.stderr
    assert f"{csv.name}  as it was written" in done.stdout
    for said in (uid, f"{maker.flow_run_name} ({maker.flow_run_id}), Completed", f"/runs/flow-run/{maker.flow_run_id}"):
        assert said in done.stdout
    told = json.loads(flows_of(room, folder, "--json").stdout)
    assert told["flow_run"]["flow_run_id"] == maker.flow_run_id
    assert set(told["states"].values()) == {UNCHANGED}


def test_a_file_that_was_changed_or_deleted_is_told(room, folder):
    [csv], [png, *_] = folder.glob("*.csv"), folder.glob("*.png")
    csv.write_bytes(csv.read_bytes().replace(b"1", b"2"))
    png.unlink()
    done = flows_of(room, folder)
    assert done.returncode == 1
    assert re.search(rf"{csv.name} +CHANGED since", done.stdout)
    assert re.search(rf"{png.name} +gone", done.stdout)


def test_the_file_itself_tells_where_prefect_has_forgotten_or_is_away(room, folder, uid):
    maker = provenance_in(folder).made_by
    with get_client(sync_client=True) as client:
        client.delete_flow_run(UUID(maker.flow_run_id))
    said = flows_of(room, folder).stdout
    assert f"{maker.flow_run_name} ({maker.flow_run_id}), which Prefect does not know" in said
    away = {**os.environ, **room.environment(), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = run_command("flows", "--of", str(folder), env=away)
    assert (uid in done.stdout, "which Prefect does not know" in done.stdout) == (True, False)
    assert "refused" in done.stdout


@pytest.mark.usefixtures("room")
def test_a_file_that_no_export_wrote_is_refused_in_a_line(tmp_path, folder):
    stray = tmp_path / "x.csv"
    stray.write_text("1")
    with pytest.raises(FlowInputError, match=r"Nothing is known of .*x\.csv"):
        file_origin(stray)
    beside = folder / "notes.md"
    beside.write_text("1")
    with pytest.raises(FlowInputError, match=r"notes\.md is none of the files that the last export wrote"):
        file_origin(beside)


@pytest.fixture
def results_of_versions(hutch):
    """Results of three runs, as versions of the package made them; the uids of the runs by the names of these."""
    hutch.environment["BLUESKY_PREFECT_PROCESSED_CONTAINER"] = processed = f"processed-{time.monotonic_ns()}"
    settings = hutch.settings.model_copy(update={"processed_container": processed})
    by_whom = {
        "old": ("0.0.9", DEPLOYMENT),
        "older": ("0.0.2", None),
        "now": (__version__, DEPLOYMENT),
        "another's": ("0.0.9", "another/flow"),
    }
    uids = {}
    with Catalog.connect(settings) as catalog:
        for name, (version, deployment) in by_whom.items():
            uids[name] = hutch.count()
            maker = MadeBy(flow_run_id="x", flow_run_name="x", deployment=deployment)
            run = run_without_streams(catalog.find(uids[name]))
            node = catalog.at(write_to(catalog, run, "fit", [1.0], {}, maker))
            node.update_metadata({"software": {"name": "bluesky-prefect", "version": version}})
    return uids


def test_runs_whose_results_an_older_version_made_are_found_and_submitted_again(hutch, results_of_versions):
    uids = results_of_versions
    asked = hutch.cli("submit", "--made-by", "<0.1")
    assert asked.returncode == 1
    assert f"{DEPLOYMENT}: 2 runs, results made by 0.0.2 (1), 0.0.9 (1)" in asked.stderr
    assert not any(hutch.flow_runs(uid) for uid in uids.values()), "nobody has said yes"
    done = hutch.cli("submit", "--made-by", "<0.1", "--yes")
    assert "2 started, 0 left alone, 0 refused" in done.stdout, done.stderr
    assert {name for name, uid in uids.items() if hutch.flow_runs(uid)} == {"old", "older"}
    again = hutch.cli("submit", "--made-by", "==0.0.9", "--yes")
    assert "1 started" in again.stdout
    assert len(hutch.flow_runs(uids["old"])) == 2


def test_of_runs_that_are_named_those_of_an_older_version_are_submitted(hutch, results_of_versions):
    tried = hutch.cli(
        "submit", results_of_versions["old"], results_of_versions["now"], "--made-by", "<0.1", "--dry-run"
    )
    assert "1 would be started" in tried.stdout


@pytest.mark.usefixtures("results_of_versions")
def test_where_no_such_version_made_anything_the_versions_are_told(hutch):
    done = hutch.cli("submit", "--made-by", "<0.0.1")
    assert (done.returncode, "Results by version: 0.0.2 (1), 0.0.9 (2)" in done.stderr) == (0, True)
    wrong = hutch.cli("submit", "--made-by", "old")
    assert wrong.returncode == 1
    assert "write '<0.2' for those before 0.2" in wrong.stderr
