"""What became of runs, as a real Prefect server and a real outbox tell it."""

import os
import sys
import time
from uuid import UUID, uuid4

import pexpect
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

from bluesky_prefect import FlowTimeout, Outbox, Settings, list_flow_runs, wait_for_flow_runs
from bluesky_prefect.core import PrefectUnavailable, Submission, submission_key
from bluesky_prefect.prefect_api import PrefectApi, flow_run_url
from bluesky_prefect.watch import AlreadyTold, PromptMessages, _failure_log, look_up
from tests.system.hutch import DEPLOYMENT, idle_deployment


class Desk:
    """An outbox of its own, and what is done to its flow runs, on which nobody works."""

    def __init__(self, settings):
        self.settings = settings
        self.outbox = Outbox(settings.outbox_path)
        # Scan ids that no other test of the session's Prefect uses.
        self.scan_id = uuid4().int % 10**12 + 10**12

    def put(self, **metadata):
        uid = str(uuid4())
        start = {"uid": uid, "scan_id": self.scan_id, "plan_name": "count", **metadata}
        key = submission_key(uid, DEPLOYMENT)
        self.outbox.put(Submission(key, DEPLOYMENT, DEPLOYMENT, uid, start))
        return uid

    def send(self, generation=0, uid=None, **metadata):
        """Do what the forwarder does; return the uid and the flow run's id."""
        uid = uid or self.put(**metadata)
        [entry] = self.outbox.entries(run_uid=uid)
        again = {**vars(entry.submission), "generation": generation, "key": submission_key(uid, DEPLOYMENT, generation)}
        with PrefectApi(30, client_retries=True) as api:
            flow_run = api.create_flow_run(Submission(**again))
        self.outbox.mark_sent(entry.key, flow_run.id, flow_run.name)
        return uid, flow_run.id

    def end(self, flow_run_id, *states):
        with get_client(sync_client=True) as client:
            for state in states:
                client.set_flow_run_state(UUID(flow_run_id), state, force=True)

    def listed(self, **options):
        return list_flow_runs(scan_id=self.scan_id, settings=self.settings, **options)


@pytest.fixture
def desk(stack, tmp_path):
    with idle_deployment(stack):
        desk = Desk(Settings(state_directory=tmp_path))
        yield desk
        desk.outbox.close()


def test_the_last_flow_runs_are_listed_newest_first_with_what_waits(desk, stack):
    first, first_id = desk.send()
    desk.end(first_id, Running(), Completed(message="done"))
    second, second_id = desk.send(plan_name="scan")
    desk.end(second_id, Running(), Failed(message="boom"))
    waits = desk.put()

    listed = desk.listed()

    assert [(one.run_uid, one.state, one.plan_name) for one in listed] == [
        (waits, "Waiting to be sent", "count"),
        (second, "Failed", "scan"),
        (first, "Completed", "count"),
    ]
    assert listed[1].url == flow_run_url(stack.prefect_ui_url, second_id, failed=True)
    assert listed[1].message == "boom"
    assert [one.run_uid for one in desk.listed(failed=True)] == [second]
    assert [one.run_uid for one in desk.listed(count=1)] == [waits]
    assert second in {one.run_uid for one in list_flow_runs(5, settings=desk.settings)}


def test_flow_runs_made_by_hand_are_listed_and_those_that_are_about_no_run_are_not(desk):
    @flow
    def backup(disk):
        pass

    @flow
    def export(ref):
        pass

    def made(flow, **parameters):
        name = "scan-12-grid_scan-0a1b2c3d-export"
        return str(client.create_flow_run(flow, name=name, parameters=parameters).id)

    with get_client(sync_client=True) as client:
        by_hand, other = made(export, ref="-1"), made(backup, disk="a")
    listed = {one.flow_run_id: one for one in list_flow_runs(200, settings=desk.settings)}
    assert other not in listed
    assert (listed[by_hand].scan_id, listed[by_hand].plan_name) == (12, "grid_scan")
    assert listed[by_hand].run_uid == listed[by_hand].workflow == ""


def test_with_prefect_away_what_waits_is_listed_all_the_same(desk, unused_address):
    waits = desk.put()
    with unused_address:
        listing = look_up(settings=desk.settings)
        assert [one.run_uid for one in listing.workflows] == [waits]
        assert "cannot be reached" in listing.problems[0]
        with pytest.raises(PrefectUnavailable):
            list_flow_runs(settings=desk.settings)


@pytest.fixture
def unused_address():
    return temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})


def test_waiting_ends_when_the_last_one_has_ended(desk):
    _, done_before = desk.send()
    desk.end(done_before, Running(), Completed())
    good, good_id = desk.send()
    bad, bad_id = desk.send()
    dropped, dropped_id = desk.send()
    dead = desk.put()
    looks = []

    def report(ended, total, problem):
        looks.append((len(ended), total, problem))
        if len(looks) == 1:
            desk.end(good_id, Running(), Completed())
            desk.end(bad_id, Running(), Crashed())
            desk.end(dropped_id, Cancelled())
            desk.outbox.mark_dead(submission_key(dead, DEPLOYMENT), "no such sample")

    ended = wait_for_flow_runs(60, settings=desk.settings, report=report)

    assert {one.run_uid: (one.state, one.failed) for one in ended} == {
        good: ("Completed", False),
        bad: ("Crashed", True),
        dropped: ("Cancelled", False),
        dead: ("Dead letter", True),
    }
    assert looks[0] == (0, 4, "")
    assert looks[-1] == (4, 4, "")


def test_somebody_who_waits_twice_is_told_of_a_failure_between_and_once(desk):
    _, before = desk.send()
    desk.end(before, Running(), Failed())
    told = AlreadyTold(time.time())
    _, flow_run_id = desk.send()
    with pytest.raises(FlowTimeout):
        wait_for_flow_runs(0, settings=desk.settings, told=told)

    desk.end(flow_run_id, Running(), Failed())

    assert [one.flow_run_id for one in wait_for_flow_runs(60, settings=desk.settings, told=told)] == [flow_run_id]
    assert wait_for_flow_runs(60, settings=desk.settings, told=told) == []


def test_somebody_who_waits_again_is_told_of_a_run_that_was_started_again_between_and_failed(desk):
    uid, first = desk.send()
    told = AlreadyTold(time.time())
    desk.end(first, Running(), Failed())
    assert wait_for_flow_runs(60, settings=desk.settings, told=told) == []
    _, again = desk.send(generation=1, uid=uid)
    desk.end(again, Running(), Failed())
    assert [one.flow_run_id for one in wait_for_flow_runs(60, settings=desk.settings, told=told)] == [again]
    assert wait_for_flow_runs(60, settings=desk.settings, told=told) == []


def test_waiting_gives_up_after_its_time(desk):
    desk.send()
    with pytest.raises(FlowTimeout, match="1 flow run still running after 0 s; it continues"):
        wait_for_flow_runs(0, settings=desk.settings)


def test_waiting_for_an_outbox_that_is_not_there_is_no_wait(tmp_path):
    assert wait_for_flow_runs(settings=Settings(state_directory=tmp_path)) == []


def test_a_failure_of_this_outbox_is_told_once_with_its_link(desk, stack, tmp_path):
    _, old = desk.send()
    desk.end(old, Running(), Failed(message="old"))
    notices = PromptMessages(desk.settings)
    elsewhere = Desk(Settings(state_directory=tmp_path / "elsewhere"))
    _, of_others = elsewhere.send()
    elsewhere.outbox.close()
    uid, flow_run_id = desk.send()
    with PrefectApi(30, client_retries=True) as api:
        notices.look(api)
        assert notices.take() == []
        desk.end(of_others, Running(), Failed(message="not ours"))
        desk.end(flow_run_id, Running(), Crashed(message="killed\nby somebody"))
        notices.look(api)
        [line] = notices.take()
        assert line.startswith(f"Scan {desk.scan_id} (count): flow run")
        assert line.endswith(f"crashed: killed  {flow_run_url(stack.prefect_ui_url, flow_run_id, failed=True)}")
        notices.look(api)
        assert notices.take() == []

        # Started again by reconciliation, and crashed again: that is news.
        _, again = desk.send(generation=1, uid=uid)
        _, other = desk.send()
        desk.end(again, Running(), Crashed())
        desk.end(other, Running(), Failed())
        notices.look(api)
        [line] = notices.take()
        assert line.startswith("2 flow runs failed or crashed")
        assert line.endswith(other)


def test_an_old_failure_that_moves_up_in_the_list_is_no_news(desk, monkeypatch):
    monkeypatch.setattr(_failure_log, "MAX_FAILURES", 2)
    monkeypatch.setattr(_failure_log, "_ALL_EVERY_S", 0.0)
    old = [desk.send()[1] for _ in range(3)]
    for flow_run_id in old:
        desk.end(flow_run_id, Running(), Failed())
    notices = PromptMessages(desk.settings)
    with PrefectApi(30, client_retries=True) as api:
        notices.look(api)
        api.client.delete_flow_run(UUID(old[-1]))
        notices.look(api)
    assert notices.take() == []


def test_the_command_keeps_up_until_interrupted(desk, stack):
    _, flow_run_id = desk.send()
    arguments = ["-m", "bluesky_prefect", "flows", "--watch", "--scan", str(desk.scan_id)]
    environment = {**stack.environment(), "BLUESKY_PREFECT_STATE_DIRECTORY": str(desk.settings.state_directory)}
    child = pexpect.spawn(
        sys.executable,
        arguments,
        env={**os.environ, **environment, "TERM": "xterm"},
        encoding="utf-8",
        dimensions=(50, 200),
        timeout=60,
    )
    child.expect("Scheduled")
    desk.end(flow_run_id, Running(), Completed())
    child.expect("Completed")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "Traceback" not in child.before
