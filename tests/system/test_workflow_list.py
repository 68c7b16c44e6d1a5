"""Reconciliation compares with the beamline's own list of workflows, or starts nothing."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableUpdate
from prefect.states import Completed, Crashed

from bluesky_prefect import Outbox, Workflow, WorkflowList
from bluesky_prefect.core import DeploymentMissing, Run, Submission, submission_key
from bluesky_prefect.journal import Journal
from bluesky_prefect.prefect_api import PrefectApi, first_listed
from bluesky_prefect.prefect_api._first_listed import _variable
from bluesky_prefect.reconciliation import FlowRunStarter, ResubmissionRequest, resubmit
from bluesky_prefect.reconciliation._diagnosis import RunState
from tests.services.fault_proxy import FaultProxy
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
    assert re.search(r"reconcile/local compares with \S+/workflows\.py:workflows", said), "Prefect knows of it"
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
def test_the_deployment_of_the_local_stack_holds_its_list(stack):
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("reconcile/local")
    assert deployment.parameters == {"workflows": f"{stack.state_directory}/workflows.py:workflows"}


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


@pytest.fixture
def new_workflow():
    return Workflow(DEPLOYMENT, name=f"new-{time.monotonic_ns()}")


def test_a_new_workflow_is_not_started_on_the_past_by_itself(hutch, new_workflow):
    past = [hutch.count() for _ in range(2)]
    in_a_minute = {"clock": lambda: time.time() + 60}
    report = hutch.reconcile(submit=True, workflows=[new_workflow], always=False, **in_a_minute)
    assert report.states == {RunState.BEFORE_LISTED: 2}
    assert report.all_processed
    # Whoever looks later, on whichever machine: the date is with Prefect.
    report = hutch.reconcile(submit=True, workflows=[new_workflow], always=False, clock=lambda: time.time() + 3600)
    assert report.states == {RunState.BEFORE_LISTED: 2}
    assert flow_runs_of(past) == []


def test_a_workflow_reaches_back_where_its_since_says_so(hutch, new_workflow):
    uid = hutch.count()
    hutch.reconcile(submit=True, workflows=[new_workflow], always=False, clock=lambda: time.time() + 60)
    since = datetime.now() - timedelta(hours=1)
    hutch.reconcile(submit=True, workflows=[replace(new_workflow, since=since)], always=False)
    assert len(hutch.flow_runs(uid, new_workflow.name)) == 1


def test_a_run_that_is_lost_after_its_workflow_was_listed_is_found(hutch, new_workflow):
    with PrefectApi(30) as api:
        first_listed(api, new_workflow.names, time.time() - 10, note=True)
    uid = hutch.count()
    hutch.reconcile(submit=True, workflows=[new_workflow], always=False)
    assert len(hutch.flow_runs(uid, new_workflow.name)) == 1


@pytest.mark.usefixtures("_deployment")
def test_the_earliest_date_of_a_workflow_under_any_of_its_names_counts(new_workflow):
    name, renamed = new_workflow.name, f"{new_workflow.name} (2)"
    with PrefectApi(30) as api:
        assert first_listed(api, [name], 3000.0, note=False) == 3000.0
        assert first_listed(api, [name], 2000.0, note=True) == 2000.0
        assert first_listed(api, [name], 9000.0, note=True) == 2000.0
        assert first_listed(api, [name], 1000.0, note=True) == 1000.0
        assert first_listed(api, [renamed], 5000.0, note=False) == 5000.0
        assert first_listed(api, [renamed, name], 5000.0, note=True) == 1000.0
        assert first_listed(api, [renamed], 5000.0, note=False) == 1000.0


@pytest.mark.usefixtures("_deployment")
def test_a_date_that_somebody_has_spoilt_is_replaced_and_told(new_workflow, caplog):
    [name] = new_workflow.names
    with PrefectApi(30) as api:
        first_listed(api, [name], 3000.0, note=True)
        logging.getLogger().addHandler(caplog.handler)  # Prefect, which is set up by now, has replaced the handlers
        variable = api.client.read_variable_by_name(_variable(name))
        api.client.update_variable(VariableUpdate(name=variable.name, value="soon"))
        assert first_listed(api, [name], 4000.0, note=True) == 4000.0
        assert f"{variable.name} holds no date: 'soon'" in caplog.text
        assert first_listed(api, [name], 5000.0, note=True) == 4000.0


SESSION = """
import sys, time
from bluesky_prefect import PrefectCallback, Workflow

deployment, name, uid = sys.argv[1:]
callback = PrefectCallback(Workflow(deployment, name=name))
callback("start", {"uid": uid, "time": time.time()})
callback("stop", {"uid": "stop", "run_start": uid, "time": time.time(), "exit_status": "success"})
assert callback.close()
"""


def send_from_a_session(hutch, workflow, uid, listed):
    env = {**os.environ, **hutch.environment, "BLUESKY_PREFECT_WORKFLOWS": listed}
    if not listed:
        del env["BLUESKY_PREFECT_WORKFLOWS"]
    done = run_code(SESSION, DEPLOYMENT, workflow.name, uid, env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("is_known", [True, False])
def test_what_a_session_sends_says_since_when_its_workflow_is_listed(hutch, new_workflow, tmp_path, is_known):
    before, sent = hutch.count(), hutch.count()
    now = time.time()
    workflow = f"Workflow({DEPLOYMENT!r}, name={new_workflow.name!r})"
    file = tmp_path / "listed.py"
    file.write_text(f"from bluesky_prefect import Workflow\nworkflows = [{workflow}]\n")
    send_from_a_session(hutch, new_workflow, sent, f"{file}:workflows" if is_known else "")
    with PrefectApi(30) as api:
        listed = first_listed(api, new_workflow.names, now + 3600, note=False)
    assert int(now) <= listed < now + 3600
    # Prefect's clock, which reconciliation goes by, tells whole seconds.
    report = hutch.reconcile(submit=True, workflows=[new_workflow], always=False, clock=lambda: time.time() + 60)
    assert report.states == {RunState.BEFORE_LISTED: 1, RunState.UNDER_WAY: 1}
    assert flow_runs_of([before]) == []


def test_a_workflow_that_a_session_starts_beside_the_list_is_new_once_it_is_listed(hutch, new_workflow):
    before, sent = hutch.count(), hutch.count()
    send_from_a_session(hutch, new_workflow, sent, "bluesky_prefect.core:DEFAULT_WORKFLOWS")
    later = time.time() + 3600
    with PrefectApi(30) as api:
        assert first_listed(api, new_workflow.names, later, note=False) == later
    report = hutch.reconcile(submit=True, workflows=[new_workflow], always=False, clock=lambda: time.time() + 60)
    assert report.states == {RunState.BEFORE_LISTED: 1, RunState.UNDER_WAY: 1}
    assert flow_runs_of([before]) == []


@pytest.mark.usefixtures("_deployment")
def test_the_local_stack_says_since_when_its_workflows_are_listed():
    with PrefectApi(30) as api:
        assert first_listed(api, ["my-workflow/local"], time.time() + 60, note=False) < time.time()


@pytest.mark.parametrize("when", [lambda run: False, lambda run: run.start["no such"]])
def test_submit_asks_when_unless_a_person_says_regardless(hutch, new_workflow, when):
    run, refusing = Run(uid := hutch.count(), {"uid": uid}, {"time": time.time()}), replace(new_workflow, when=when)

    def submit(**options):
        with PrefectApi(30) as api:
            starter = FlowRunStarter(api, None)
            [outcome] = resubmit([run], [refusing], ResubmissionRequest(**options), api=api, starter=starter)
        return outcome

    left = submit()
    assert not left.started
    assert not left.refused
    assert "its when= " in left.text
    assert "--regardless" in left.text
    assert not flow_runs_of([uid])
    assert submit(regardless=True).started
    assert len(flow_runs_of([uid])) == 1


BESIDE_A_COURIER = """
import logging, sys, time
from bluesky_prefect import PrefectCallback, Settings
from bluesky_prefect.core import api_address
from bluesky_prefect.courier._courier_lock import only_courier

said = []
tell = logging.Handler("WARNING")
tell.emit = lambda record: said.append(record.getMessage())
logging.getLogger().addHandler(tell)
with only_courier(Settings(), prefect=api_address(), tiled=""):
    callback = PrefectCallback(["my-workflow/local", "my-workflow/lokal", "x/y"])
    deadline = time.monotonic() + 60
    while len(said) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3)  # nor is it said again
    assert callback.close()
assert "prefect" not in sys.modules
print(*said, sep="\\n")
"""
NAMES_TOLD = [
    "Prefect has no deployment 'my-workflow/lokal': runs wait for it. Did you mean 'my-workflow/local'? "
    "Deploy it, or correct its name.",
    "Prefect has no deployment 'x/y': runs wait for it. Deploy it, or correct its name.",
]


@pytest.fixture
def alone(hutch, tmp_path):
    """The environment of a session with its own state directory, and no list to compare with."""
    environment = {**os.environ, **hutch.environment, "BLUESKY_PREFECT_STATE_DIRECTORY": str(tmp_path)}
    del environment["BLUESKY_PREFECT_WORKFLOWS"]
    return environment


def beside_a_courier(environment):
    """Run a session in a new interpreter, in which nobody has imported Prefect; return what it logs."""
    done = subprocess.run([sys.executable, "-c", BESIDE_A_COURIER], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_names_that_prefect_does_not_know_are_told_before_the_first_scan_with_the_nearest(alone):
    assert beside_a_courier(alone) == NAMES_TOLD


def test_a_session_that_starts_before_prefect_is_told_of_unknown_names_once_it_answers(alone, stack):
    proxy = FaultProxy(urlsplit(stack.prefect_api_url).port)
    try:
        proxy.mode = "refuse"
        threading.Timer(4, setattr, (proxy, "mode", "pass")).start()
        there = {"PREFECT_API_URL": f"{proxy.url}/api"}
        assert beside_a_courier({**alone, **there}) == NAMES_TOLD
    finally:
        proxy.close()


@pytest.mark.usefixtures("_deployment")
def test_what_waits_for_a_deployment_that_is_not_there_names_the_nearest():
    with PrefectApi(30) as api, pytest.raises(DeploymentMissing, match="Did you mean 'my-workflow/local'"):
        api.check("my-workflow/lokal")


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


@pytest.mark.parametrize("own", [True, False])
def test_the_stack_s_list_says_nothing_of_the_runs_of_another_server(stack, own):
    """As where somebody left a local stack running on a machine of a beamline with servers of its own."""
    url = stack.prefect_api_url if own else "http://prefect.example:4200/api"
    environment = {**os.environ, "BLUESKY_PREFECT_STATE_DIRECTORY": str(stack.state_directory), "PREFECT_API_URL": url}
    environment.pop("BLUESKY_PREFECT_WORKFLOWS", None)
    done = subprocess.run([sys.executable, "-c", SERVICES], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (f"{stack.state_directory}/workflows.py:workflows" if own else "None")
