"""What a session, its watching and reconciliation ask of a Prefect server, which may be older or newer than they."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
from prefect.states import Completed, Crashed, Failed, Pending, Running

from bluesky_prefect import Settings, Workflow, list_flow_runs, wait_for_flow_runs
from bluesky_prefect.core import DeploymentMissing, PrefectUnavailable, Run, Submission, submission_key
from bluesky_prefect.prefect_api import PrefectApi, last_failed_flow_runs, past_flow_runs, signs_of_life
from bluesky_prefect.reconciliation import Reconciler, TimeWindow
from bluesky_prefect.reconciliation._diagnosis import RunState
from bluesky_prefect.tiled_api import RAW_SPEC
from bluesky_prefect.watch import flow_runs_of
from tests.services.prefect_process import wait_until
from tests.versions.conftest import USER

MANY = 1000
SESSION = """
import sys
import bluesky.plans as bp
from bluesky import RunEngine
from bluesky_prefect import PrefectCallback
from ophyd.sim import det

callback = PrefectCallback(sys.argv[1])
engine = RunEngine(context_managers=[])
engine.subscribe(callback)
[uid] = engine(bp.count([det], 1))
assert callback.close(timeout_s=60)
print(uid)
"""


@pytest.fixture
def settings(tmp_path):
    return Settings(state_directory=tmp_path, settle_s=0, max_reruns=2, rerun_failed=True)


@pytest.fixture
def api(deployment):
    with PrefectApi(30, client_retries=True) as api:
        yield api


@pytest.fixture
def start(api, deployment):
    """Make the first flow run of a new run, and return the uid and the flow run."""

    def start():
        uid = str(uuid4())
        return uid, api.create_flow_run(submission(uid, deployment))

    return start


@pytest.fixture
def reconcile(api, deployment, settings, monkeypatch):
    """Compare runs with Prefect, as if Tiled held them: no Tiled is needed to ask Prefect."""

    def reconcile(*uids, later_s=0.0):
        stored = [Run(uid, {"uid": uid, "time": time.time()}, {"time": time.time()}) for uid in uids]
        monkeypatch.setattr("bluesky_prefect.reconciliation._reconciler.runs_between", lambda *_, **__: iter(stored))
        catalog = SimpleNamespace(
            name="raw",
            raw_for_writing=lambda: None,
            raw=SimpleNamespace(specs=[SimpleNamespace(name=RAW_SPEC[0], version=RAW_SPEC[1])]),
        )
        reconciler = Reconciler(
            catalog,
            api,
            [Workflow(deployment, since="1970-01-02")],
            settings,
            clock=lambda: api.now() + later_s,
            sleep=lambda _: None,
        )
        return reconciler.run(TimeWindow(0.0), submit=True)

    return reconcile


def submission(uid, deployment, generation=0):
    key = submission_key(uid, deployment, generation)
    return Submission(key, deployment, deployment, uid, {"uid": uid, "scan_id": 7, "plan_name": "count"}, {})


def go_through(flow_run_id, *states):
    with get_client(sync_client=True) as client:
        for state in states:
            client.set_flow_run_state(UUID(str(flow_run_id)), state, force=True)


def version(api):
    """Return major and minor number of the server's version."""
    major, minor, *_ = api.client.request("GET", "/admin/version").json().split(".")
    return int(major), int(minor)


def history(api, uid, deployment):
    return past_flow_runs(api, [(uid, deployment)], since_s=0.0)[uid, deployment]


def test_a_run_of_the_engine_starts_one_flow_run_that_is_waited_for(server, deployment, settings, api):
    # A process of its own: the forwarder's thread knows the settings of the process alone.
    where = {
        "PREFECT_API_URL": server.url,
        "PREFECT_API_AUTH_STRING": USER,
        "BLUESKY_PREFECT_STATE_DIRECTORY": str(settings.state_directory),
    }
    state = {"BLUESKY_PREFECT_STATE_DIRECTORY": str(settings.state_directory)}
    done = subprocess.run(
        [sys.executable, "-c", SESSION, deployment],
        env={**os.environ, **where, **state},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    uid = done.stdout.strip()
    [flow_run] = history(api, uid, deployment)
    assert flow_run.parameters == {"ref": uid}
    assert f"uid:{uid}" in flow_run.tags

    def end(ended, total, problem):
        # Once it is waited for; what had ended before would not be.
        if not ended:
            go_through(flow_run.id, Running(), Completed())

    [waited] = wait_for_flow_runs(60, settings=settings, report=end)
    assert (waited.run_uid, waited.state_type) == (uid, "COMPLETED")


def test_the_same_submission_makes_one_flow_run(api, deployment):
    one = submission(str(uuid4()), deployment)
    assert api.create_flow_run(one).id == api.create_flow_run(one).id


def test_a_deployment_that_is_not_there_is_told_of(api):
    with pytest.raises(DeploymentMissing):
        api.check("version-test/missing")


def test_a_password_that_the_server_refuses_is_told_of(deployment):
    wrong = temporary_settings({PREFECT_API_AUTH_STRING: "beamline:wrong"})
    with wrong, PrefectApi(30) as api, pytest.raises(PrefectUnavailable, match="401"):
        api.check(deployment)


def test_flow_runs_are_listed_by_run_scan_id_and_failure(api, start, settings):
    uid, flow_run = start()
    go_through(flow_run.id, Running(), Failed(message="boom"))
    assert [one.state_type for one in flow_runs_of(api, uid)] == ["FAILED"]
    assert uid in {one.run_uid for one in list_flow_runs(MANY, scan_id=7, settings=settings)}
    assert uid in {one.run_uid for one in list_flow_runs(MANY, failed=True, settings=settings)}
    assert uid == last_failed_flow_runs(api, 1)[0].run_uid


@pytest.mark.parametrize("state", [Crashed(message="killed"), Failed(message="boom")])
def test_what_did_not_succeed_is_started_again(reconcile, start, api, deployment, state):
    uid, flow_run = start()
    go_through(flow_run.id, Running(), state)
    assert reconcile(uid).all_processed
    assert [one.generation for one in history(api, uid, deployment)] == [0, 1]
    assert reconcile(uid).states == {RunState.UNDER_WAY: 1}


def test_what_is_missing_is_started(reconcile, api, deployment):
    uid = str(uuid4())
    assert reconcile(uid).all_processed
    [flow_run] = history(api, uid, deployment)
    go_through(flow_run.id, Running(), Completed())
    assert reconcile(uid).states == {RunState.PROCESSED: 1}


def test_what_gives_no_sign_of_life_is_marked_as_crashed_and_started_again(reconcile, start, api, deployment):
    uid, flow_run = start()
    go_through(flow_run.id, Pending(), Running())
    # A server of 3.2 can be asked, and keeps no events by itself.
    wait_until(lambda: signs_of_life(api, flow_run.id).events or version(api) < (3, 7))
    assert reconcile(uid, later_s=10_000).all_processed
    first, second = history(api, uid, deployment)
    assert (first.state_type, second.state_type) == ("CRASHED", "SCHEDULED")


def test_what_a_server_cannot_do_keeps_no_flow_run_from_being_made(api, deployment, caplog):
    uid = str(uuid4())
    one = submission(uid, deployment)
    api.create_flow_run(Submission(**{**vars(one), "notify": ("failure:slack/nobody",)}))
    assert "No message about a failure goes to slack/nobody" in caplog.text
    assert "Prefect has no notification block" in caplog.text


def test_runs_that_have_just_ended_have_a_work_queue_of_their_own(api, deployment):
    pool = f"pool-{uuid4()}"
    api.client.request("POST", "/work_pools/", json={"name": pool, "type": "process"})
    for name in ("live", "backlog"):
        api.client.request("POST", f"/work_pools/{pool}/queues", json={"name": name})
    flow_id = api.client.create_flow_from_name(deployment.partition("/")[0])
    api.client.create_deployment(flow_id, pool, work_pool_name=pool)
    name = f"{deployment.partition('/')[0]}/{pool}"
    made = {live: api.create_flow_run(submission(str(uuid4()), name), live=live) for live in (True, False)}
    queues = {live: api.client.read_flow_run(UUID(one.id)).work_queue_name for live, one in made.items()}
    assert queues == {True: "live", False: "backlog"}
