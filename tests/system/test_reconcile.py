"""Each run processed, or told of: reconciliation between a real Tiled and a real Prefect server."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from bluesky_tiled_plugins import TiledWriter
from event_model import compose_run
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

from bluesky_prefect import Outbox, Workflow
from bluesky_prefect.core import Submission, WorkflowList, submission_key
from bluesky_prefect.courier._courier_lock import only_courier
from bluesky_prefect.journal import Journal, JournalDirectory
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.reconciliation._diagnosis import RunState
from tests.services.forked import run_code
from tests.system.hutch import DEPLOYMENT, STRICT, WORKFLOWS


def found(report):
    return {(finding.run_uid, finding.state) for finding in report.findings}


def test_a_run_without_a_flow_run_is_told_of_and_nothing_is_changed(hutch):
    uid = hutch.count()
    report = hutch.reconcile()
    assert found(report) == {(uid, RunState.MISSING)}
    assert not report.all_processed
    assert hutch.flow_runs(uid) == ()


def test_what_is_missing_is_submitted_as_the_callback_would_have_done(hutch):
    uid = hutch.count(purpose="x")
    report = hutch.reconcile(submit=True)
    [flow_run] = hutch.flow_runs(uid)
    assert flow_run.parameters == {"ref": uid}
    assert flow_run.generation == 0
    assert report.all_processed
    hutch.end(uid, Completed())
    assert hutch.reconcile().states == {RunState.PROCESSED: 1}


def test_a_run_that_has_just_stopped_is_given_time_to_get_there(hutch):
    hutch.count()
    report = hutch.reconcile(submit=True, settings=hutch.settings.model_copy(update={"settle_s": 60}))
    assert report.states == {RunState.SETTLING: 1}
    assert report.all_processed


def test_runs_that_opted_out_or_were_not_wanted_are_no_problem(hutch):
    hutch.count(prefect=False)
    hutch.count(purpose="alignment")
    report = hutch.reconcile(workflows=[Workflow(DEPLOYMENT, when=lambda run: run.start.get("purpose") == "science")])
    assert report.all_processed
    assert sum(report.states.values()) == 0


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([Running(), Crashed(message="killed")], RunState.CRASHED),
        ([Running(), Failed(message="boom")], RunState.FAILED),
        ([Running()], RunState.SILENT),
    ],
)
def test_what_did_not_succeed_is_started_again_with_the_same_parameters(hutch, states, expected):
    uid = hutch.count()
    with PrefectApi(30) as api:
        submission = Submission(
            submission_key(uid, DEPLOYMENT), DEPLOYMENT, DEPLOYMENT, uid, overrides={"date": "2026"}
        )
        api.create_flow_run(submission)
    hutch.end(uid, *states)
    later = lambda: time.time() + 5000  # noqa: E731
    report = hutch.reconcile(submit=True, clock=later)
    assert found(report) == {(uid, expected)}
    first, second = hutch.flow_runs(uid)
    assert first.state_type in {"CRASHED", "FAILED"}
    assert second.parameters == {"ref": uid, "date": "2026"}
    assert hutch.reconcile().states == {RunState.UNDER_WAY: 1}


def test_what_waits_in_a_paused_queue_or_in_the_backlog_of_a_worker_is_not_late(hutch):
    pool = f"pool-{uuid4().hex[:8]}"
    workflow = Workflow(f"reconcile-test/{pool}")

    def states():
        report = hutch.reconcile(workflows=[workflow], clock=lambda: time.time() + 5000)
        return report.states, report.remarks[-1]

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        client.request("POST", f"/work_pools/{pool}/queues/", json={"name": "backlog"})
        flow_id = client.create_flow_from_name("reconcile-test")
        schema = {"type": "object", "properties": {"ref": {"type": "string"}}, "required": ["ref"]}
        placed = {"work_pool_name": pool, "work_queue_name": "backlog"}
        client.create_deployment(flow_id, pool, parameter_openapi_schema=schema, **placed)
        hutch.count()
        hutch.reconcile(workflows=[workflow], submit=True)
        assert states()[0] == {RunState.LATE: 1}

        def pause(path, is_paused):
            client.request("PATCH", f"/work_pools/{pool}{path}", json={"is_paused": is_paused})

        for path, named in {"/queues/backlog": "queue backlog of work pool", "": "work pool"}.items():
            pause(path, True)
            assert states() == ({RunState.QUEUED: 1}, f"1 flow run waits in {named} {pool}, which is paused.")
            pause(path, False)
        client.request("POST", f"/work_pools/{pool}/workers/heartbeat", json={"name": "worker"})
        assert states() == ({RunState.QUEUED: 1}, f"1 flow run waits in queue backlog of work pool {pool}.")


def test_what_a_person_cancelled_is_left_alone(hutch):
    uid = hutch.count()
    hutch.reconcile(submit=True)
    hutch.end(uid, Cancelled())
    assert hutch.reconcile(submit=True).states == {RunState.CANCELLED: 1}


def test_what_crashes_again_and_again_alarms_instead_of_looping(hutch):
    uid = hutch.count()
    for _ in range(5):
        report = hutch.reconcile(submit=True)
        hutch.end(uid, Crashed(message="killed"))
    assert found(report) == {(uid, RunState.GIVEN_UP)}
    assert "killed" in report.findings[0].reason
    assert not report.all_processed
    assert len(hutch.flow_runs(uid)) == 1 + STRICT["max_reruns"]


def test_by_itself_it_leaves_time_between_reruns(hutch):
    uid = hutch.count()
    for _ in range(3):
        hutch.reconcile(submit=True, patient=True)
        hutch.end(uid, Crashed())
    assert len(hutch.flow_runs(uid)) == 2
    hutch.reconcile(submit=True, patient=True, clock=lambda: time.time() + 301)
    assert len(hutch.flow_runs(uid)) == 3


def test_two_people_who_repair_at_the_same_time_make_no_duplicates(hutch):
    uids = [hutch.count() for _ in range(6)]
    hutch.reconcile(submit=True)
    for uid in uids[:3]:
        hutch.end(uid, Crashed())
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: hutch.cli("reconcile", "--submit"), range(2)))
    assert [one.returncode for one in done] == [0, 0], done
    assert [len(hutch.flow_runs(uid)) for uid in uids] == [2, 2, 2, 1, 1, 1]


def test_a_run_whose_stop_never_came_is_told_of_once_it_is_old(hutch):
    hutch.raw.create_container("open", metadata={"start": {"uid": "open", "time": time.time() - 100, "scan_id": 7}})
    assert hutch.reconcile().states == {RunState.OPEN: 1}
    report = hutch.reconcile(submit=True, settings=hutch.settings.model_copy(update={"open_after_s": 50}))
    assert found(report) == {("open", RunState.NO_STOP)}
    assert not report.all_processed


def test_a_when_that_fails_leaves_the_run_to_a_person(hutch):
    uid = hutch.count()
    report = hutch.reconcile(submit=True, workflows=[Workflow(DEPLOYMENT, when=lambda run: run.start["no such"])])
    assert found(report) == {(uid, RunState.UNDECIDED)}
    assert "KeyError" in report.findings[0].reason
    assert hutch.flow_runs(uid) == ()


def test_what_cannot_be_started_is_told_with_the_reason(hutch):
    hutch.count()
    report = hutch.reconcile(submit=True, workflows=[Workflow("nobody/made-it")])
    assert not report.all_processed
    assert "has no deployment 'nobody/made-it'" in report.findings[0].action


def put(hutch, uid, **options):
    outbox = Outbox(hutch.settings.outbox_path)
    submission = Submission(submission_key(uid, DEPLOYMENT), DEPLOYMENT, DEPLOYMENT, uid, {"uid": uid, "scan_id": 9})
    outbox.put(submission, **options)
    return outbox


def test_a_dead_letter_is_told_of_and_not_started(hutch):
    here, elsewhere = hutch.count(), "not-in-tiled"
    for uid in (here, elsewhere):
        put(hutch, uid, dead="its reason").close()
    report = hutch.reconcile(submit=True)
    assert found(report) == {(here, RunState.DEAD), (elsewhere, RunState.DEAD)}
    assert {finding.reason for finding in report.findings} == {"its reason"}
    assert hutch.flow_runs(here) == ()


def test_what_the_state_directory_holds_is_told_of_whatever_ours_says(hutch):
    kept, _ = journal(hutch)
    put(hutch, "dead", dead="its reason").close()
    report = hutch.reconcile(workflows=WorkflowList(WORKFLOWS, ours=lambda run: False))
    assert found(report) == {("dead", RunState.DEAD), (kept, RunState.NOT_IN_TILED)}


def test_what_waits_in_the_outbox_is_started_and_the_outbox_told(hutch):
    uid = hutch.count()
    outbox = put(hutch, uid)
    assert found(hutch.reconcile()) == {(uid, RunState.WAITING)}
    hutch.reconcile(submit=True)
    [entry] = outbox.entries(run_uid=uid)
    outbox.close()
    assert entry.state == "sent"
    assert entry.flow_run_id == hutch.flow_runs(uid)[0].id


def test_what_prefect_has_lost_since_is_started_anew(hutch):
    uid = hutch.count()
    outbox = put(hutch, uid)
    outbox.mark_sent(submission_key(uid, DEPLOYMENT), "lost", "scan-lost")
    outbox.close()
    report = hutch.reconcile(submit=True)
    assert "Prefect had scan-lost" in report.findings[0].reason
    assert len(hutch.flow_runs(uid)) == 1


def journal(hutch):
    """Write the journal of a run, as a session does; return the run's uid and the file."""
    run = compose_run(metadata={"scan_id": 1, "plan_name": "kept"})
    written = Journal(hutch.settings.journals_path, run.start_doc["uid"])
    written.append("start", run.start_doc)
    written.append("stop", run.compose_stop())
    written.close()
    return run.start_doc["uid"], written.path


def test_a_run_on_its_way_to_tiled_is_told_of_where_no_courier_takes_it_there(hutch):
    uid, path = journal(hutch)
    report = hutch.reconcile(submit=True)
    assert found(report) == {(uid, RunState.NOT_IN_TILED)}
    assert report.findings[0].scan_id == 1
    assert "no courier is running" in report.findings[0].reason
    with only_courier(hutch.settings, prefect=None, tiled=""):
        assert hutch.reconcile().findings == []
    assert path.exists()


def test_a_run_that_goes_on_is_left_to_its_session(hutch):
    written = Journal(hutch.settings.journals_path, "goes-on")
    written.append("start", {"uid": "goes-on"})
    assert hutch.reconcile(submit=True).findings == []
    written.close()


def test_a_run_that_tiled_refuses_is_told_of_with_the_reason_and_the_remedy(hutch):
    uid, path = journal(hutch)
    JournalDirectory(hutch.settings.journals_path).refuse(path, "no such format")
    [finding] = hutch.reconcile(submit=True).findings
    assert finding.reason == "Tiled refuses it: no such format"
    assert f"bluesky-prefect journal retry {uid[:8]}" in finding.remedy


def test_only_the_runs_asked_for_are_looked_at(hutch):
    old = hutch.count()
    middle = time.time()
    new = hutch.count()
    assert found(hutch.reconcile(since=middle)) == {(new, RunState.MISSING)}
    assert found(hutch.reconcile(only={"scan_id": 1})) == {(old, RunState.MISSING)}
    assert hutch.reconcile(only={"plan": "scan"}).runs == 0


def test_the_command_ends_with_1_until_all_is_processed(hutch):
    uid = hutch.count()
    looked = hutch.cli("reconcile", "--json")
    assert looked.returncode == 1, looked.stderr
    [finding] = json.loads(looked.stdout)["findings"]
    assert (finding["run_uid"], finding["state"], finding["remedy"]) == (uid, "no flow run", "--submit starts it")
    assert hutch.cli("reconcile", "--submit").returncode == 0
    assert hutch.cli("reconcile", "--since", "1h").returncode == 0


def write(hutch, start_s, stop_s):
    """Write a run to Tiled that has no data, of any time; return its uid."""
    uid = str(uuid4())
    writer = TiledWriter(hutch.raw)
    writer("start", {"uid": uid, "time": start_s, "plan_name": "count", "scan_id": 1})
    stop = {"uid": str(uuid4()), "run_start": uid, "time": stop_s, "exit_status": "success", "num_events": {}}
    writer("stop", stop)
    return uid


@pytest.mark.parametrize("ahead_s", [3600, 3 * 86400])
def test_a_run_that_stopped_ahead_of_this_machine_s_clock_is_started_at_once(hutch, ahead_s):
    uid = write(hutch, time.time() + ahead_s - 60, time.time() + ahead_s)
    done = hutch.cli("reconcile", "--submit", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["runs"], report["until"]) == (1, None)
    assert [one.generation for one in hutch.flow_runs(uid)] == [0]


def test_by_itself_it_starts_a_run_that_stopped_ahead_of_this_machines_clock(hutch):
    uid = write(hutch, time.time() + 3540, time.time() + 3600)
    code = "from bluesky_prefect.reconciliation import reconcile; reconcile()"
    run_code(code, env={**os.environ, **hutch.environment}).check_returncode()
    assert [one.generation for one in hutch.flow_runs(uid)] == [0]


def test_with_an_end_the_window_ends_there(hutch):
    write(hutch, time.time() - 7260, time.time() - 7200)
    write(hutch, time.time() + 3540, time.time() + 3600)
    report = json.loads(hutch.cli("reconcile", "--until", "1h", "--json").stdout)
    assert report["runs"] == 1
    assert report["findings"][0]["since"] < report["until"]
    assert json.loads(hutch.cli("reconcile", "--json").stdout)["runs"] == 2


def test_submit_leaves_alone_what_has_been_processed_and_says_so(hutch):
    uid = hutch.count()
    assert hutch.cli("submit", "1").returncode == 0
    hutch.end(uid, Completed())
    done = hutch.cli("submit", uid[:8])
    assert done.returncode == 0, done.stderr
    assert "left alone: processed already" in done.stdout
    assert len(hutch.flow_runs(uid)) == 1


def test_submit_again_makes_a_new_generation_with_the_parameters_given(hutch):
    uid = hutch.count()
    hutch.cli("submit", "1")
    done = hutch.cli("submit", "--again", "--parameters", '{"date": "2026-01-01"}', "--json", "-1")
    [outcome] = json.loads(done.stdout)
    assert outcome["flow_run_name"].endswith("-again-1")
    assert [one.parameters for one in hutch.flow_runs(uid)] == [{"ref": uid}, {"ref": uid, "date": "2026-01-01"}]


def test_submit_takes_ranges_each_run_once_and_a_dry_run_changes_nothing(hutch):
    uids = [hutch.count() for _ in range(4)]
    tried = hutch.cli("submit", "1..3", "2", "--dry-run")
    assert tried.stdout.count("would be started") == 4  # three runs, and the line below
    assert not any(hutch.flow_runs(uid) for uid in uids)
    done = hutch.cli("submit", "1..3", "2")
    assert "3 started, 0 left alone, 0 refused" in done.stdout
    assert [len(hutch.flow_runs(uid)) for uid in uids] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "1", "98765432"], "has no run with scan id 98765432"),
        (["submit", "1", "--workflow", "nonsense"], "Workflows of this beamline: reconcile-test/idle"),
        (["submit", "1", "--parameters", '{"nonsense": 1}'], "has no parameter 'nonsense'; it takes ref, date"),
    ],
)
def test_wrong_arguments_are_told_and_nothing_is_started(hutch, arguments, said):
    uid = hutch.count()
    done = hutch.cli(*arguments)
    assert done.returncode == 1
    assert said in " ".join((done.stderr + done.stdout).split())
    assert hutch.flow_runs(uid) == ()
