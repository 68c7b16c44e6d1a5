"""Prefect's own vacuum deletes what has become old; reconciliation knows how far back Prefect's memory goes."""

import time
from contextlib import closing
from dataclasses import replace
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Completed, Running
from pydantic import SecretStr

from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.reconciliation._diagnosis import RunState
from tests.chaos.clocks import MachineClock
from tests.services.prefect_process import PrefectProcess, wait_until
from tests.system.hutch import Hutch, idle_deployment

_USER = "prefect:a-password"
HOUR_S = 3600
# The shortest time that Prefect lets flow runs be kept for is an hour.
_KEPT = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(2 * HOUR_S),
    "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "1",
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "PT1H",
}


@pytest.fixture
def clock(tmp_path):
    return MachineClock(tmp_path, "clock")


@pytest.fixture
def hutch(stack, tmp_path, made_databases, clock):
    """A hutch whose Prefect deletes what has ended more than two hours ago, by a clock that the test sets."""
    prefect = PrefectProcess(tmp_path, user=_USER, databases=made_databases, environment={**_KEPT, **clock.environment})
    here = replace(stack, prefect_api_url=prefect.url, prefect_auth_string=SecretStr(_USER))
    try:
        prefect.start()
        with (
            idle_deployment(here),
            closing(Hutch(here, f"raw-{tmp_path.name}-{time.monotonic_ns()}", tmp_path / "state")) as hutch,
        ):
            yield hutch
    finally:
        prefect.kill()


def set_off(clock, off_s):
    """Set the server's clock, and wait until its answers say so: it writes their date once a second."""
    clock.set_off(off_s)
    with PrefectApi(30) as api:
        wait_until(lambda: api.client.hello() and abs(api.now() - time.time() - off_s) < 60)


def kept_of(client, flow_run_id):
    """Return how many logs, artifacts and events Prefect has of a flow run."""

    def count(path, **wanted):
        return client.request("POST", path, json=wanted).json()

    of_it = {"flow_run_id": {"any_": [flow_run_id]}}
    events = {"resource": {"id": [f"prefect.flow-run.{flow_run_id}"]}}
    return (
        len(count("/logs/filter", logs=of_it)),
        len(count("/artifacts/filter", artifacts=of_it)),
        count("/events/filter", filter=events)["total"],
    )


def processed(hutch, client):
    """Take a run that is processed with a log and an artifact, and return its uid and the flow run."""
    uid = hutch.count()
    hutch.reconcile(submit=True, only={"scan_id": hutch.beamline.engine.md["scan_id"]})
    [flow_run] = hutch.flow_runs(uid)
    hutch.end(uid, Running(), Completed())
    line = {
        "name": "x",
        "level": 20,
        "message": "done",
        "timestamp": "2026-01-01T00:00:00Z",
        "flow_run_id": flow_run.id,
    }
    client.request("POST", "/logs/", json=[line])
    client.request("POST", "/artifacts/", json={"key": "table", "data": "1", "flow_run_id": flow_run.id})
    wait_until(lambda: min(kept_of(client, flow_run.id)) > 0)
    return uid, flow_run.id


def test_what_prefect_has_deleted_is_told_of_and_not_started_again(hutch, clock):
    with get_client(sync_client=True) as client:
        uid, flow_run_id = processed(hutch, client)
        waits = hutch.count()
        hutch.reconcile(submit=True, only={"scan_id": hutch.beamline.engine.md["scan_id"]})
        set_off(clock, 3 * HOUR_S)
        wait_until(lambda: kept_of(client, flow_run_id) == (0, 0, 0), 90)
    assert hutch.flow_runs(uid) == ()
    assert len(hutch.flow_runs(waits)) == 1, "it has not ended"

    report = hutch.reconcile(submit=True)
    assert report.states == {RunState.FORGOTTEN: 1, RunState.LATE: 1}
    assert "1 older than Prefect's memory" in report.summary
    assert any("are deleted in Prefect" in remark for remark in report.remarks)
    assert hutch.flow_runs(uid) == ()

    done = hutch.cli("reconcile", "--since", "2026-01-01", "--submit")
    assert "1 older than Prefect's memory" in done.stdout
    assert "bluesky-prefect submit UID --again" in done.stderr
    assert "left alone: its flow run may be deleted" in hutch.cli("submit", uid).stdout
    assert hutch.flow_runs(uid) == ()

    assert "started" in hutch.cli("submit", uid, "--again").stdout
    [again] = hutch.flow_runs(uid)
    assert UUID(again.id) != UUID(flow_run_id)


def test_what_is_missing_within_prefect_s_memory_is_started(hutch, clock):
    uid = hutch.count()
    set_off(clock, HOUR_S)
    report = hutch.reconcile(submit=True, since=time.time() - 60)
    assert (report.states, report.all_processed) == ({RunState.MISSING: 1}, True)
    assert len(hutch.flow_runs(uid)) == 1
    assert not any("are deleted in Prefect" in remark for remark in report.remarks)
