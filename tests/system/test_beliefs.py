"""What reconciliation believes of flow runs that others execute, so that no run is processed twice; a real server."""

import datetime
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from uuid import UUID, uuid4

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Completed, Crashed, Pending, Running, Scheduled
from prefect.utilities.callables import parameter_schema

from bluesky_prefect import Workflow
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.reconciliation._diagnosis import RunState
from bluesky_prefect.reconciliation._endings import Endings
from tests.services.forked import run_module
from tests.services.prefect_process import ask, post, user_of, wait_until
from tests.system.hutch import DEPLOYMENT

FLOW = """
from prefect import flow

@flow(name="late-test")
def late(ref: str, mark: str):
    with open(mark, "a") as file:
        file.write(ref)
"""


def much_later():
    return time.time() + 5000


@pytest.fixture
def client(_deployment):
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def pools_of_the_dead(_deployment):
    """Work pools whose worker gave its last sign of life when this file's first test began, by their type.

    The server looks every 15 s for workers that are gone; by the time of the last tests it has.
    """
    pools = {pool_type: f"pool-{uuid4().hex[:6]}" for pool_type in ("process", "warm-process")}
    with get_client(sync_client=True) as client:
        for pool_type, name in pools.items():
            client.create_work_pool(WorkPoolCreate(name=name, type=pool_type))
            client.send_worker_heartbeat(name, "killed", heartbeat_interval_seconds=1)
    return pools


class Room:
    """A work pool with a deployment of a flow that notes on which runs it ran, and no worker but those said to be.

    A worker's part is done by the test: it makes a flow run pending, and starts the process that executes it.
    """

    def __init__(self, client, hutch, directory, pool_type, pool):
        self._client, self._hutch = client, hutch
        self.pool = pool or f"pool-{uuid4().hex[:6]}"
        if pool is None:
            client.create_work_pool(WorkPoolCreate(name=self.pool, type=pool_type))
        self._directory = directory / "code"
        self._directory.mkdir()
        (self._directory / "late_flow.py").write_text(FLOW)
        self._mark = directory / "mark"
        name = uuid4().hex[:6]
        client.create_deployment(
            client.create_flow_from_name("late-test"),
            name,
            work_pool_name=self.pool,
            entrypoint=f"{self._directory}/late_flow.py:late",
            path=str(self._directory),
            parameters={"mark": str(self._mark)},
            parameter_openapi_schema={"type": "object", "properties": {"ref": {}, "mark": {}}, "required": ["ref"]},
        )
        self.workflow = f"late-test/{name}"

    def heartbeat(self, worker):
        self._client.send_worker_heartbeat(self.pool, worker, heartbeat_interval_seconds=3600)

    def wait_for_death(self):
        wait_until(lambda: self._client.read_workers_for_work_pool(self.pool)[0].status.value == "OFFLINE")

    def take(self, *, worker=None):
        """Do a scan, and have a worker take its flow run; return the run's uid and the flow run's id."""
        uid = self._hutch.count()
        self._hutch.reconcile(submit=True, workflows=[Workflow(self.workflow)])
        self._hutch.end(uid, Pending(), workflow=self.workflow)
        flow_run = self.flow_runs(uid)[-1].id
        if worker:
            self._client.update_flow_run_labels(UUID(flow_run), {"prefect.worker.name": worker})
        return uid, flow_run

    def execute(self, flow_run):
        """Do what the process of a flow run does when it comes up."""
        environment = {**os.environ, **self._hutch.environment, "PREFECT__FLOW_RUN_ID": flow_run}
        environment["PREFECT_LOCAL_STORAGE_PATH"] = str(self._directory / "storage")
        run_module("prefect.engine", env=environment, cwd=self._directory)

    def reconcile(self, **options):
        return self._hutch.reconcile(submit=True, workflows=[Workflow(self.workflow)], **options)

    def flow_runs(self, uid):
        return self._hutch.flow_runs(uid, self.workflow)

    @property
    def ran(self):
        return self._mark.read_text() if self._mark.exists() else ""


@pytest.fixture
def room(client, hutch, tmp_path):
    def make(pool_type, pool=None):
        return Room(client, hutch, tmp_path, pool_type, pool)

    return make


def states(flow_runs):
    return [one.state_type for one in flow_runs]


def test_a_process_that_comes_up_late_is_waited_for_and_runs_once(room):
    room = room("kubernetes")
    uid, flow_run = room.take(worker="gone")
    report = room.reconcile(clock=much_later)
    assert [(one.state, one.solved) for one in report.findings] == [(RunState.STUCK, False)]
    assert "delete the flow run" in report.findings[0].remedy
    room.execute(flow_run)
    assert states(room.flow_runs(uid)) == ["COMPLETED"]
    assert room.reconcile(clock=much_later).all_processed
    assert room.ran == uid


@pytest.mark.parametrize(
    ("label", "online", "state"),
    [
        (None, [], RunState.ABANDONED),
        (None, ["before"], RunState.STUCK),
        ("before", ["before"], RunState.STUCK),
        ("before", ["other"], RunState.ABANDONED),
    ],
)
def test_a_worker_is_gone_if_none_that_is_there_can_have_taken_the_flow_run(room, label, online, state):
    room = room("process")
    for name in online:
        room.heartbeat(name)
    room.take(worker=label)
    room.heartbeat("after")
    report = room.reconcile(clock=much_later)
    assert [(one.state, one.solved) for one in report.findings] == [(state, state is RunState.ABANDONED)]


def test_what_replaces_a_flow_run_is_like_it_and_holds_its_key(room):
    room = room("process")
    uid, _ = room.take()
    [before] = room.flow_runs(uid)
    room.reconcile(clock=much_later)
    first, second = room.flow_runs(uid)
    assert (first.name, first.parameters, first.generation) == (before.name, before.parameters, 0)
    assert set(first.tags) == set(before.tags)
    assert "its worker took it and is gone" in first.message
    assert second.parameters == before.parameters


def test_a_flow_run_that_began_since_it_was_looked_at_is_left_alone(room):
    room = room("process")
    uid, _ = room.take()
    [seen] = room.flow_runs(uid)
    room._hutch.end(uid, Running(), workflow=room.workflow)
    with PrefectApi(30, client_retries=True) as api:
        assert not Endings(api).supersede(seen, "late")
    assert states(room.flow_runs(uid)) == ["RUNNING"]


def test_two_people_who_replace_the_same_flow_runs_start_each_once(room):
    room = room("process")
    taken = [room.take()[0] for _ in range(3)]
    with ThreadPoolExecutor() as pool:  # Prefect's address is known in this context
        people = [pool.submit(copy_context().run, room.reconcile, clock=much_later) for _ in range(2)]
        [person.result() for person in people]
    for uid in taken:
        # Who looks while the other one is about to replace it makes it anew: without a crashed record beside it.
        assert states(room.flow_runs(uid)) in (["CRASHED", "SCHEDULED"], ["SCHEDULED"])


def test_a_flow_run_that_completes_at_the_marking_is_not_started_again(hutch, monkeypatch):
    mark_crashed = Endings.mark_crashed
    uid = hutch.count()
    hutch.reconcile(submit=True)
    hutch.end(uid, Running())

    def complete_and_mark(endings, flow_run_id, message):
        hutch.end(uid, Completed())
        return mark_crashed(endings, flow_run_id, message)

    monkeypatch.setattr(Endings, "mark_crashed", complete_and_mark)
    report = hutch.reconcile(submit=True, clock=much_later)
    assert report.states == {RunState.PROCESSED: 1}
    assert report.all_processed
    assert states(hutch.flow_runs(uid)) == ["COMPLETED"]


def test_a_flow_run_that_crashes_at_the_marking_is_started_again_once(hutch, monkeypatch):
    mark_crashed = Endings.mark_crashed
    uid = hutch.count()
    hutch.reconcile(submit=True)
    hutch.end(uid, Running())

    def crash_and_mark(endings, flow_run_id, message):
        hutch.end(uid, Crashed(message="earlier"))
        return mark_crashed(endings, flow_run_id, message)

    monkeypatch.setattr(Endings, "mark_crashed", crash_and_mark)
    report = hutch.reconcile(submit=True, clock=much_later)
    assert [(one.state, one.solved) for one in report.findings] == [(RunState.CRASHED, True)]
    assert states(hutch.flow_runs(uid)) == ["CRASHED", "SCHEDULED"]


def within(client, flow_run):
    """Make a flow run that runs within another; return its id."""
    from prefect import flow, task

    @task
    def call():
        pass

    @flow(name="child")
    def child():
        pass

    task_run = client.create_task_run(call, UUID(flow_run), dynamic_key=uuid4().hex)
    return client.create_flow_run(child, parent_task_run_id=task_run.id, state=Running()).id


def test_what_completes_within_a_flow_run_at_the_marking_is_a_sign_of_life(hutch, client, monkeypatch):
    uid = hutch.count()
    hutch.reconcile(submit=True)
    hutch.end(uid, Running())
    [flow_run] = hutch.flow_runs(uid)
    child = within(client, flow_run.id)
    set_state = type(client).set_flow_run_state

    def complete_and_set(self, flow_run_id, state, **options):
        if flow_run_id == child and state.is_crashed():
            set_state(client, child, Completed(), force=True)
        return set_state(self, flow_run_id, state, **options)

    monkeypatch.setattr(type(client), "set_flow_run_state", complete_and_set)
    report = hutch.reconcile(submit=True, clock=much_later)
    assert report.states == {RunState.UNDER_WAY: 1}
    assert states(hutch.flow_runs(uid)) == ["RUNNING"]


def heartbeat(stack, flow_run, *, clock_off_s=0.0):
    """Have the server receive a heartbeat of a flow run, dated by a clock that is so much ahead."""
    occurred = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=clock_off_s)
    event = {
        "occurred": occurred.isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run}"},
        "id": str(uuid4()),
    }
    ask(stack, "POST", "/events", json=[event]).raise_for_status()
    body = {"filter": {"id": {"id": [event["id"]]}, "occurred": {"until": "9999-01-01T00:00:00Z"}}}
    wait_until(lambda: post(stack.prefect_api_url, "/events/filter", user=user_of(stack), **body)["total"])


def running(hutch):
    uid = hutch.count()
    hutch.reconcile(submit=True)
    hutch.end(uid, Running())
    [flow_run] = hutch.flow_runs(uid)
    return uid, flow_run.id


def test_a_clock_of_ours_that_is_ahead_makes_no_flow_run_silent(hutch, stack, monkeypatch):
    uid, flow_run = running(hutch)
    heartbeat(stack, flow_run)
    present = time.time
    waited = []
    monkeypatch.setattr(time, "time", lambda: present() + 660.0)
    assert hutch.reconcile().states == {RunState.UNDER_WAY: 1}
    assert hutch.reconcile(submit=True, sleep=waited.append).states == {RunState.UNDER_WAY: 1}
    assert waited == []
    assert states(hutch.flow_runs(uid)) == ["RUNNING"]


@pytest.mark.parametrize("days", [-3, 3])
def test_a_server_whose_clock_is_days_off_is_told_of_and_hides_no_run(hutch, days):
    uid = hutch.count()
    settings = hutch.settings.model_copy(update={"settle_s": 60.0})
    report = hutch.reconcile(submit=True, settings=settings, clock=lambda: time.time() + days * 86400)
    assert report.states == {RunState.MISSING: 1}
    assert any("4320 min apart" in remark for remark in report.remarks)
    with PrefectApi(30, client_retries=True) as api:  # the run's session was only slow, and sends it now
        again = api.create_flow_run(Submission(submission_key(uid, DEPLOYMENT), DEPLOYMENT, DEPLOYMENT, uid))
    assert [one.id for one in hutch.flow_runs(uid)] == [again.id]


@pytest.mark.parametrize("off_s", [-7200.0, 0.0, 7200.0])
def test_what_gives_a_sign_of_life_at_the_second_look_lives_whatever_its_clock(hutch, stack, off_s):
    uid, flow_run = running(hutch)
    heartbeat(stack, flow_run)
    report = hutch.reconcile(
        submit=True, clock=much_later, sleep=lambda _: heartbeat(stack, flow_run, clock_off_s=off_s)
    )
    assert report.states == {RunState.UNDER_WAY: 1}
    assert states(hutch.flow_runs(uid)) == ["RUNNING"]


def test_all_that_is_silent_is_listened_to_at_once_and_then_started_again(hutch, stack):
    uids = []
    for _ in range(3):
        uid, flow_run = running(hutch)
        heartbeat(stack, flow_run)
        uids.append(uid)
    waited, told = [], []
    report = hutch.reconcile(submit=True, clock=much_later, sleep=waited.append, report=told.append)
    assert waited == [hutch.settings.heartbeat_timeout_s / 3]
    assert "3 flow runs without a sign of life: waiting 200 s for one" in told
    assert report.states == {RunState.SILENT: 3}
    assert [states(hutch.flow_runs(uid)) for uid in uids] == [["CRASHED", "SCHEDULED"]] * 3


def test_who_only_looks_does_not_wait(hutch):
    running(hutch)
    waited = []
    assert hutch.reconcile(clock=much_later, sleep=waited.append).states == {RunState.SILENT: 1}
    assert waited == []


def test_a_flow_run_is_late_by_the_servers_clock_and_not_by_that_of_its_maker(hutch, client):
    uid = hutch.count()
    deployment = client.read_deployment_by_name(DEPLOYMENT)
    an_hour_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"ref": uid},
        idempotency_key=submission_key(uid, DEPLOYMENT),
        state=Scheduled(scheduled_time=an_hour_ago),
    )
    assert hutch.reconcile().states == {RunState.UNDER_WAY: 1}
    assert hutch.reconcile(clock=much_later).states == {RunState.LATE: 1}


def made_days_ago(hutch, client, *moved_to):
    """Do a scan whose flow run bears a time of some days ago, by a clock that was wrong; return the run's uid."""
    uid = hutch.count()
    deployment = client.read_deployment_by_name(DEPLOYMENT)
    made = client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"ref": uid},
        idempotency_key=submission_key(uid, DEPLOYMENT),
        state=Scheduled(scheduled_time=datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)),
    )
    for state in moved_to:
        client.set_flow_run_state(made.id, state, force=True)
    return uid


def test_a_crashed_flow_run_dated_long_before_its_run_is_started_again(hutch, client):
    uid = made_days_ago(hutch, client, Crashed(message="out of memory"))
    report = hutch.reconcile(submit=True)
    assert states(hutch.flow_runs(uid)) == ["CRASHED", "SCHEDULED"]
    [finding] = report.findings
    assert (finding.state, finding.reason, finding.solved) == (RunState.CRASHED, "out of memory", True)
    assert finding.flow_run_id == hutch.flow_runs(uid)[-1].id
    assert hutch.reconcile().states == {RunState.UNDER_WAY: 1}


@pytest.mark.parametrize(
    ("moved_to", "clock", "state"),
    [
        ([Completed()], None, RunState.PROCESSED),
        ([Running()], None, RunState.UNDER_WAY),
        ([], None, RunState.UNDER_WAY),
        ([], much_later, RunState.LATE),
    ],
)
def test_a_flow_run_dated_long_before_its_run_is_never_called_started(hutch, client, moved_to, clock, state):
    uid = made_days_ago(hutch, client, *moved_to)
    report = hutch.reconcile(submit=True, clock=clock)
    assert report.states == {state: 1}
    assert not any(finding.solved for finding in report.findings)
    assert len(hutch.flow_runs(uid)) == 1


@pytest.mark.parametrize("alive", [True, False])
def test_a_silent_flow_run_dated_long_before_its_run_is_heard_first(hutch, client, stack, alive):
    uid = made_days_ago(hutch, client, Running())
    [flow_run] = hutch.flow_runs(uid)
    heartbeat(stack, flow_run.id)
    waited = []

    def sleep(wait_s):
        waited.append(wait_s)
        if alive:
            heartbeat(stack, flow_run.id)

    report = hutch.reconcile(submit=True, clock=much_later, sleep=sleep)
    assert waited == [hutch.settings.heartbeat_timeout_s / 3]
    assert report.states == {RunState.UNDER_WAY if alive else RunState.SILENT: 1}
    assert states(hutch.flow_runs(uid)) == (["RUNNING"] if alive else ["CRASHED", "SCHEDULED"])


@pytest.mark.parametrize(
    ("state", "options", "said", "after"),
    [
        (Completed(), [], "left alone: processed already", ["COMPLETED"]),
        (Completed(), ["--again"], "-again-1", ["COMPLETED", "SCHEDULED"]),
        (Crashed(), [], "-again-1", ["CRASHED", "SCHEDULED"]),
    ],
)
def test_submit_never_calls_a_flow_run_dated_long_before_its_run_started(hutch, client, state, options, said, after):
    uid = made_days_ago(hutch, client, state)
    done = hutch.cli("submit", uid, "--json", *options)
    assert done.returncode == 0, done.stderr
    [outcome] = json.loads(done.stdout)
    assert said in outcome["text"]
    assert states(hutch.flow_runs(uid)) == after


def test_a_deployment_with_a_block_of_its_own_is_started_again(hutch, client, stack):
    block = Secret(value="x").save(f"secret-{uuid4().hex[:6]}", _sync=True)
    reference = {"$ref": {"block_document_id": str(block)}}
    name = f"reconcile-test/{uuid4().hex[:6]}"

    def with_a_block(ref: str, key: Secret, threshold: int = 1) -> None: ...

    client.create_deployment(
        client.create_flow_from_name("reconcile-test"),
        name.partition("/")[2],
        parameters={"key": reference, "threshold": 5},
        parameter_openapi_schema=parameter_schema(with_a_block).model_dump(),
        enforce_parameter_schema=True,
    )
    uid = hutch.count()
    workflow = [Workflow(name, parameters=lambda run: {"ref": run.uid, "threshold": 7})]
    for generation in range(3):
        report = hutch.reconcile(submit=True, workflows=workflow)
        assert report.all_processed, report.findings
        hutch.end(uid, Crashed(), workflow=name)
        assert hutch.flow_runs(uid, name)[generation].parameters == {"ref": uid, "key": reference, "threshold": 7}


@pytest.mark.parametrize("pool_type", ["process", "warm-process"])
def test_a_process_that_comes_up_after_the_next_was_started_does_not_run(room, pool_type, pools_of_the_dead):
    room = room(pool_type, pools_of_the_dead[pool_type])
    room.wait_for_death()
    uid, flow_run = room.take(worker="killed")
    room.heartbeat("new")
    report = room.reconcile(clock=much_later)
    assert [(one.state, one.solved) for one in report.findings] == [(RunState.ABANDONED, True)]
    assert states(room.flow_runs(uid)) == ["CRASHED", "SCHEDULED"]
    room.execute(flow_run)
    assert room.ran == ""
    room.execute(room.flow_runs(uid)[-1].id)
    assert room.ran == uid
    assert states(room.flow_runs(uid)) == ["CRASHED", "COMPLETED"]
