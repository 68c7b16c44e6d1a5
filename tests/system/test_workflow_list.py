"""Reconciliation compares with the beamline's own list of workflows, or starts nothing."""

import json
import os
import subprocess
import sys
import time

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Completed, Crashed

from bluesky_prefect import Outbox, Workflow, WorkflowList
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.journal import Journal
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.reconciliation._diagnosis import RunState
from tests.services.forked import run_code
from tests.system.hutch import DEPLOYMENT, WORKFLOWS, decline

LIST = "tests.system.hutch:WORKFLOWS"


def processed(hutch, runs=6, workflow=DEPLOYMENT, **metadata):
    """Take runs that have a completed flow run each, as those of any facility."""
    uids = [hutch.count(**metadata) for _ in range(runs)]
    with PrefectApi(30) as api:
        for uid in uids:
            made = api.create_flow_run(Submission(submission_key(uid, workflow), workflow, DEPLOYMENT, uid))
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(made.id, Completed(), force=True)
    return uids


def without_list(hutch):
    """A shell in which nobody has named the list."""
    del hutch.environment["BLUESKY_PREFECT_WORKFLOWS"]
    return hutch


def flow_runs_of(uids):
    from prefect.client.schemas.filters import FlowRunFilter

    asked = FlowRunFilter.model_validate({"tags": {"any_": [f"uid:{uid}" for uid in uids]}})
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=asked)


@pytest.mark.parametrize("arguments", [["reconcile", "--submit"], ["submit", "1..6"]])
def test_a_shell_without_the_list_starts_nothing_and_says_how_to_name_it(hutch, arguments):
    uids = processed(hutch)
    done = without_list(hutch).cli(*arguments)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "BLUESKY_PREFECT_WORKFLOWS" in said
    assert "--workflows" in said
    assert "reconcile/local compares with bluesky_prefect.stack:WORKFLOWS" in said, "Prefect knows of it"
    assert len(flow_runs_of(uids)) == 6


def test_the_list_can_be_named_in_the_command(hutch):
    processed(hutch)
    done = without_list(hutch).cli("reconcile", "--submit", "--json", "--workflows", LIST)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["states"] == {"processed": 6}


def test_a_workflow_that_a_person_names_needs_no_list(hutch):
    uid = hutch.count()
    done = without_list(hutch).cli("submit", "1", "--workflow", DEPLOYMENT)
    assert done.returncode == 0, done.stderr
    assert len(hutch.flow_runs(uid)) == 1


RECONCILE = """
import sys
from bluesky_prefect.reconciliation._flow import reconcile

state = reconcile(**dict(one.split("=") for one in sys.argv[1:]), return_state=True)
print(state.type.value, state.message)
"""


def scheduled(hutch, *parameters):
    """Run the flow as a worker does, with the parameters that the deployment has."""
    environment = {**os.environ, **hutch.environment}
    done = run_code(RECONCILE, *parameters, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_a_scheduled_reconcile_without_the_list_fails_and_starts_nothing(hutch):
    uids = processed(hutch)
    state = scheduled(without_list(hutch))
    assert state.startswith("FAILED")
    assert "BLUESKY_PREFECT_WORKFLOWS" in state
    assert len(flow_runs_of(uids)) == 6


def test_a_scheduled_reconcile_has_its_list_from_its_deployment(hutch):
    processed(hutch)
    assert "6 runs" in (state := scheduled(without_list(hutch), f"workflows={LIST}"))
    assert state.startswith("COMPLETED")
    assert "6 flow runs expected: all processed" in state


@pytest.mark.usefixtures("_deployment")
def test_the_deployment_of_the_local_stack_holds_its_list():
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("reconcile/local")
    assert deployment.parameters == {"workflows": "bluesky_prefect.stack:WORKFLOWS"}


def found(report):
    return {(finding.run_uid, finding.workflow, finding.state) for finding in report.findings}


def test_a_workflow_with_a_new_name_keeps_its_history(hutch):
    [uid, other] = processed(hutch, 2, "old")
    renamed = [Workflow(DEPLOYMENT, name="new", was="old")]
    assert hutch.reconcile(submit=True, workflows=renamed).states == {RunState.PROCESSED: 2}
    hutch.end(other, Crashed(), workflow="old")
    report = hutch.reconcile(submit=True, workflows=renamed)
    assert report.all_processed
    assert [one.name for one in flow_runs_of([other]) if one.name.endswith("-again-1")], "the numbers go on"
    assert len(hutch.flow_runs(other, "old")) == 2, "it goes on under the name it was begun under"
    assert len(flow_runs_of([uid])) == 1


def test_what_waits_under_a_former_name_is_sent_once(hutch):
    uid = hutch.count()
    outbox = Outbox(hutch.settings.outbox_path)
    outbox.put(Submission(submission_key(uid, "old"), "old", DEPLOYMENT, uid))
    hutch.reconcile(submit=True, workflows=[Workflow(DEPLOYMENT, name="new", was="old")])
    [entry] = outbox.entries(run_uid=uid)
    outbox.close()
    assert entry.state == "sent"
    assert len(flow_runs_of([uid])) == 1


def test_submit_knows_the_former_names(hutch):
    processed(hutch, 1, "old")
    done = hutch.cli("submit", "1", "--workflows", "tests.system.hutch:RENAMED")
    assert "left alone: processed already" in done.stdout, done.stderr


def test_a_rename_without_was_starts_nothing_and_says_so_with_the_remedy(hutch):
    uids = processed(hutch, 3, "old")
    report = hutch.reconcile(submit=True, workflows=[Workflow(DEPLOYMENT, name="new")])
    assert found(report) == {(uid, "new", RunState.OTHER_NAME) for uid in uids}
    assert "started as 'old'" in report.findings[0].reason
    assert "was=" in report.findings[0].remedy
    assert not report.all_processed
    assert len(flow_runs_of(uids)) == 3


def test_a_workflow_without_any_history_is_told_of_before_it_is_started(hutch):
    uids = processed(hutch, 3)
    told = []
    new = [*WORKFLOWS, Workflow("my-workflow/local", when=lambda run: not told.append("asked"))]
    report = hutch.reconcile(workflows=new, warn=told.append)
    [remark] = [line for line in told if line != "asked"]
    assert remark == report.remarks[0]
    assert "'my-workflow/local' has no flow run in Prefect on any of 3 runs: 3 would be started" in remark
    assert "was='...'" in remark
    assert len(flow_runs_of(uids)) == 3


def test_runs_of_another_beamline_in_a_shared_catalog_are_left_alone(hutch):
    ours = hutch.count(beamline_id="srx")
    theirs = hutch.count(beamline_id="csx")
    metadata = {"start": {"uid": "open", "time": time.time() - 100_000, "beamline_id": "csx"}}
    hutch.raw.create_container("open", metadata=metadata)  # and one that was never stopped
    listed = WorkflowList(WORKFLOWS, ours=lambda run: run.start.get("beamline_id") == "srx")
    report = hutch.reconcile(submit=True, workflows=listed)
    assert found(report) == {(ours, DEPLOYMENT, RunState.MISSING)}
    assert report.runs == 1
    assert flow_runs_of([theirs]) == []


def test_a_neighbour_s_runs_with_the_same_flow_are_told_of_and_not_started(hutch):
    uids = processed(hutch, 2, "csx/idle")
    report = hutch.reconcile(submit=True)
    assert found(report) == {(uid, DEPLOYMENT, RunState.OTHER_NAME) for uid in uids}
    assert len(flow_runs_of(uids)) == 2


def test_what_a_session_refused_is_not_started_by_reconciliation(hutch):
    """As `when=succeeded` in the session does, while the list takes every run."""
    uid = hutch.count()
    decline(hutch.settings.outbox_path, uid)
    report = hutch.reconcile(submit=True)
    assert report.states == {RunState.NOT_WANTED: 1}
    assert report.all_processed
    assert flow_runs_of([uid]) == []


def test_a_scan_longer_than_six_hours_is_no_alarm_while_its_session_records_it(hutch):
    start = {"uid": "long", "time": time.time() - 7 * 3600, "scan_id": 7}
    hutch.raw.create_container("long", metadata={"start": start})
    journal = Journal(hutch.settings.journals_path, "long")
    journal.append("start", start)
    assert hutch.reconcile().states == {RunState.OPEN: 1}
    journal.close()  # its session is gone
    assert RunState.NO_STOP in hutch.reconcile().states


SERVICES = "from bluesky_prefect.stack._discovery import use_services; print(use_services().workflows)"


@pytest.mark.parametrize(("own", "listed"), [(True, "bluesky_prefect.stack:WORKFLOWS"), (False, "None")])
def test_the_stack_s_list_says_nothing_of_the_runs_of_another_server(stack, own, listed):
    """As where somebody left a local stack running on a machine of a beamline with servers of its own."""
    url = stack.prefect_api_url if own else "http://prefect.example:4200/api"
    environment = {**os.environ, "BLUESKY_PREFECT_STATE_DIRECTORY": str(stack.state_directory), "PREFECT_API_URL": url}
    environment.pop("BLUESKY_PREFECT_WORKFLOWS", None)
    done = subprocess.run([sys.executable, "-c", SERVICES], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == listed
