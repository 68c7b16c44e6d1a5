"""What Prefect did with a run, asked of a real Prefect server."""

import os
import signal
import subprocess
import sys
import time
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings
from prefect.states import Completed, Crashed, Running

from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.prefect_api import PrefectApi, past_flow_runs, signs_of_life
from bluesky_prefect.reconciliation._endings import Endings
from tests.services.prefect_process import prefect_settings, wait_until

WORKFLOW = "history-flow/nobody-works-on-it"
SLEEPER = """
import time
from prefect import flow

@flow(name="sleeper-child")
def child():
    time.sleep(600)

@flow(name="sleeper")
def sleeper():
    child()

sleeper()
"""


@pytest.fixture(scope="module")
def api(stack):
    with temporary_settings(prefect_settings(stack)):
        with get_client(sync_client=True) as client:
            flow_id = client.create_flow_from_name("history-flow")
            client.create_deployment(flow_id, "nobody-works-on-it")
        with PrefectApi(timeout_s=30, client_retries=True) as api:
            yield api


def start(api, run_uid, generation=0):
    key = submission_key(run_uid, WORKFLOW, generation)
    return api.create_flow_run(Submission(key, WORKFLOW, WORKFLOW, run_uid, generation=generation)).id


def generations(api, *uids):
    found = past_flow_runs(api, [(uid, WORKFLOW) for uid in uids], since_s=time.time() - 60)
    return {uid: [one.generation for one in flow_runs] for (uid, _), flow_runs in found.items()}


def test_each_generation_of_each_run_is_found_in_order(api):
    for generation in range(4):
        start(api, "four-times", generation)
    start(api, "once")
    assert generations(api, "never", "four-times", "once") == {
        "never": [],
        "four-times": [0, 1, 2, 3],
        "once": [0],
    }


def test_a_later_flow_run_is_found_where_the_first_was_deleted(api):
    first = start(api, "old")
    start(api, "old", 1)
    api.client.delete_flow_run(UUID(first))
    assert generations(api, "old") == {"old": [1]}


def test_more_runs_than_prefect_answers_at_once_are_all_found(api):
    uids = [f"many-{number}" for number in range(250)]
    for uid in uids[::25]:
        start(api, uid)
    found = generations(api, *uids)
    assert [uid for uid in uids if found[uid]] == uids[::25]


def test_the_present_state_is_told_with_its_message(api):
    flow_run_id = start(api, "told")
    before = time.time()
    api.client.set_flow_run_state(UUID(flow_run_id), Crashed(message="boom"))
    [found] = past_flow_runs(api, [("told", WORKFLOW)], since_s=before)["told", WORKFLOW]
    assert (found.id, found.state_type, found.state, found.message) == (flow_run_id, "CRASHED", "Crashed", "boom")
    assert before - 1 < found.changed < time.time() + 1


def test_a_flow_run_that_waits_has_waited_since_it_was_due(api):
    before = time.time()
    start(api, "waits")
    [found] = past_flow_runs(api, [("waits", WORKFLOW)], since_s=before)["waits", WORKFLOW]
    assert found.state_type == "SCHEDULED"
    assert before - 1 < found.changed < time.time() + 1


def test_a_flow_run_of_which_nothing_was_heard_gives_no_sign_of_life(api):
    signs = signs_of_life(api, str(UUID(int=1)))
    assert (signs.last, signs.heartbeats) == (None, False)


def test_a_killed_flow_run_has_its_last_sign_of_life_and_is_marked_whole(stack, api):
    before = time.time()
    environment = {**os.environ, **stack.environment(), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], env=environment, stderr=subprocess.DEVNULL)
    try:
        child = wait_until(lambda: _running(api, "sleeper-child"))
        parent = _running(api, "sleeper")
        wait_until(lambda: signs_of_life(api, str(parent.id)).heartbeats)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = time.time()
    assert before < signs_of_life(api, str(parent.id)).last <= killed + 1

    assert Endings(api).mark_crashed(str(parent.id), "found dead")
    for flow_run in (parent, child):
        state = api.client.read_flow_run(flow_run.id).state
        assert (state.type.value, state.message) == ("CRASHED", "found dead")


@pytest.mark.parametrize("ended", [Completed(message="done"), Crashed(message="earlier")])
def test_a_flow_run_that_has_ended_meanwhile_stays_as_it_is(api, ended):
    uid = f"ended-{ended.type.value}"
    flow_run_id = UUID(start(api, uid))
    api.client.set_flow_run_state(flow_run_id, Running(), force=True)
    api.client.set_flow_run_state(flow_run_id, ended)
    assert not Endings(api).mark_crashed(str(flow_run_id), "found dead")
    assert api.client.read_flow_run(flow_run_id).state.message == ended.message


def _running(api, flow_name):
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter

    found = api.client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [flow_name]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}}),
    )
    return found[0] if found else None
