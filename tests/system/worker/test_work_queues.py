"""Two work queues on a real Prefect server, and a real worker: the run just taken goes first, what was kept later."""

import time
from contextlib import closing, nullcontext
from functools import partial

import anyio
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from bluesky_prefect import Outbox, Settings, Workflow
from bluesky_prefect.core import Run, Submission
from bluesky_prefect.courier import Forwarder
from bluesky_prefect.prefect_api import PrefectApi, prepare_queues
from bluesky_prefect.reconciliation import FlowRunStarter
from tests.services.prefect_process import wait_until
from tests.system.worker.conftest import FLOWS
from tests.system.worker.test_worker import start_waiting

BACKLOG = 60


@pytest.fixture
def api(prefect_server):
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), PrefectApi(30, client_retries=True) as api:
        yield api


class Room:
    """A work pool of the test's own, with deployments by name."""

    def __init__(self, worker, api):
        self._worker = worker
        self._api = api

    def name(self, deployment_id):
        found = self._worker.ask("GET", f"/deployments/{deployment_id}")
        flow = self._worker.ask("GET", f"/flows/{found['flow_id']}")
        return f"{flow['name']}/{found['name']}"

    def send(self, deployment, uid, *, live=False):
        """Have a flow run created as the forwarder does, and return its id."""
        submission = Submission(f"{self._worker.pool}:{uid}", "w", deployment, uid, parameters={"count": 1})
        return self._api.create_flow_run(submission, live=live).id

    def queue_of(self, flow_run):
        return self._worker.flow_run(flow_run)["work_queue_name"]

    def queues(self):
        """Return the queues of the pool, those first whose flow runs go first."""
        found = self._worker.ask("POST", f"/work_pools/{self._worker.pool}/queues/filter", limit=100)
        return sorted(found, key=lambda one: one["priority"])


@pytest.fixture
def room(another_worker, api):
    return Room(another_worker, api)


def test_a_run_just_taken_starts_before_all_that_waited_before_it(another_worker, room, tmp_path):
    anyio.run(prepare_queues, another_worker.pool)
    lines = room.name(another_worker.deploy(f"{FLOWS.name}:lines", FLOWS.parent))
    waits = another_worker.deploy(f"{FLOWS.name}:waits", FLOWS.parent)
    another_worker.start("--limit", "1", PREFECT_WORKER_QUERY_SECONDS="1")
    # The only place is taken, until all the others wait for it.
    start_waiting(another_worker, waits, tmp_path / "waits")
    kept = [room.send(lines, f"kept-{number}") for number in range(BACKLOG)]
    fresh = room.send(lines, "fresh", live=True)
    (tmp_path / "waits").unlink()
    started = another_worker.wait(fresh)["start_time"]
    wait_until(lambda: any(another_worker.flow_run(one)["start_time"] for one in kept))
    others = [start for one in kept if (start := another_worker.flow_run(one)["start_time"])]
    assert started < min(others)


def test_what_was_kept_through_an_outage_is_backlog_and_so_is_what_is_started_again(
    another_worker, room, api, tmp_path
):
    anyio.run(prepare_queues, another_worker.pool)
    deployment = room.name(another_worker.deploy(f"{FLOWS.name}:lines", FLOWS.parent))
    settings = Settings(state_directory=tmp_path / "state")
    submission = partial(Submission, workflow="w", deployment=deployment, parameters={"count": 1})
    with closing(Outbox(settings.outbox_path, clock=lambda: time.time() - 3600)) as an_hour_ago:
        an_hour_ago.put(submission(f"{tmp_path}:kept", run_uid="kept"))
    with closing(Outbox(settings.outbox_path)) as outbox:
        outbox.put(submission(f"{tmp_path}:fresh", run_uid="fresh"))
        forwarder = Forwarder([outbox], settings, connect=lambda: nullcontext(api))
        while outbox.counts().waiting:
            forwarder.step()
        sent = {entry.run_uid: entry.flow_run_id for entry in outbox.entries()}
    workflow = Workflow(deployment, parameters=lambda run: {"count": 1})
    again = FlowRunStarter(api, None).start(Run(str(tmp_path), {}, {"time": time.time()}), workflow, 1)
    assert {uid: room.queue_of(flow_run) for uid, flow_run in sent.items()} == {"kept": "backlog", "fresh": "live"}
    assert room.queue_of(again.id) == "backlog"


def test_a_pool_without_the_queues_gets_none_and_its_flow_runs_go_on(another_worker, room):
    lines = room.name(another_worker.deploy(f"{FLOWS.name}:lines", FLOWS.parent))
    sent = [room.send(lines, "kept"), room.send(lines, "fresh", live=True)]
    another_worker.start(PREFECT_WORKER_QUERY_SECONDS="1")
    assert [another_worker.wait(one)["state_type"] for one in sent] == ["COMPLETED", "COMPLETED"]
    assert {room.queue_of(one) for one in sent} == {"default"}
    assert [one["name"] for one in room.queues()] == ["default"]


def test_what_people_start_goes_before_the_backlog_and_after_what_is_live(another_worker, room):
    said = anyio.run(prepare_queues, another_worker.pool)
    assert [one["name"] for one in room.queues()] == ["live", "default", "backlog"]
    assert said.endswith("in the order of its queues: live, default, backlog.")


def test_preparing_queues_again_leaves_what_an_operator_has_changed(another_worker, room):
    anyio.run(prepare_queues, another_worker.pool)
    _, default, backlog = room.queues()
    another_worker.ask("PATCH", f"/work_queues/{backlog['id']}", is_paused=True, concurrency_limit=3)
    another_worker.ask("PATCH", f"/work_queues/{default['id']}", priority=1)
    before = room.queues()
    said = anyio.run(prepare_queues, another_worker.pool)
    after = room.queues()
    kept = ("id", "name", "priority", "is_paused", "concurrency_limit", "description")
    assert [[one[name] for name in kept] for one in after] == [[one[name] for name in kept] for one in before]
    assert (after[-1]["is_paused"], after[-1]["concurrency_limit"]) == (True, 3)
    assert "default, live, backlog. Its queue backlog is paused" in said
