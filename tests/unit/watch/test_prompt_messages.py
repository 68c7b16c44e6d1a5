"""What is told before a prompt without Prefect: that submissions wait, once."""

import threading
import time
from contextlib import closing
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

import bluesky_prefect.watch._prompt_messages
from bluesky_prefect import Outbox, Settings
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.journal import Journal, JournalDirectory
from bluesky_prefect.outbox._stopped_runs import StoppedRuns
from bluesky_prefect.prefect_api import PrefectApi, runs_url, search_url
from bluesky_prefect.watch import FailureLog, PromptMessages, WorkflowStatus
from tests.services.fault_proxy import FaultProxy
from tests.services.prefect_process import wait_until
from tests.services.prefect_stand_in import PrefectStandIn

WORKFLOW = "my-workflow/local"
REASON = "Prefect at http://127.0.0.1:4200/api cannot be reached:\nConnectError"


@pytest.fixture
def settings(tmp_path):
    return Settings(state_directory=tmp_path, request_timeout_s=60)


@pytest.fixture
def outbox(settings):
    outbox = Outbox(settings.outbox_path)
    yield outbox
    outbox.close()


@pytest.fixture
def api():
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), PrefectApi(5) as api:
        yield api


def refused(outbox, uid):
    """Put in the submission of a run that Prefect could not be asked about."""
    outbox.put(Submission(submission_key(uid, WORKFLOW), WORKFLOW, WORKFLOW, uid))
    outbox.give_back(outbox.take().key, REASON, 0.0)


def later():
    return time.time() + 60


def test_that_submissions_wait_is_told_once_on_one_line_with_the_address(settings, outbox, api):
    refused(outbox, "a")
    notices = PromptMessages(settings, clock=later)
    notices.look(api)
    [line] = notices.take()
    assert line.startswith("1 submission is waiting and will be sent automatically once this is resolved: ")
    assert "http://127.0.0.1:4200/api" in line
    assert "\n" not in line
    refused(outbox, "b")
    notices.look(api)
    assert notices.take() == []


def test_after_a_wait_an_outage_found_before_it_is_not_told_unless_something_waits_still(settings, outbox, api):
    refused(outbox, "a")
    notices = PromptMessages(settings, clock=later)
    notices.look(api)
    outbox.mark_sent(submission_key("a", WORKFLOW), str(uuid4()), "name")
    notices.note_shown([])
    assert notices.take() == []
    refused(outbox, "b")
    notices.look(api)
    assert notices.take()[0].startswith("1 submission is waiting")


@pytest.fixture
def notes(monkeypatch):
    """The runs that stopped in this process: none yet."""
    runs = StoppedRuns()
    monkeypatch.setattr(bluesky_prefect.watch._prompt_messages, "stopped_runs", runs)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    return lambda uid, *started: runs.note(
        uid, name=f"scan-{uid}", opted_out=False, started=started, known=[], outboxes=[]
    )


def test_the_flow_that_a_run_starts_is_told_once_with_a_page_that_will_show_it(settings, notes):
    notices = PromptMessages(settings)
    notes("1", WORKFLOW)
    notes("2")
    assert notices.take() == [f"scan-1 starts {WORKFLOW}: {search_url('http://127.0.0.1:4200', 'scan-1')}"]
    assert notices.take() == []


def test_what_several_runs_start_is_one_line(settings, notes):
    notices = PromptMessages(settings)
    for uid in ("1", "2"):
        notes(uid, WORKFLOW, "b/x")
    assert notices.take() == [f"2 runs start {WORKFLOW}, b/x: {runs_url('http://127.0.0.1:4200')}"]


def test_that_flows_start_is_not_told_where_nobody_wants_it_nor_promised_in_an_outage(settings, notes, outbox, api):
    silent = PromptMessages(settings.model_copy(update={"tell_of_started_flows": False}))
    notices = PromptMessages(settings)
    notices._clock = later
    refused(outbox, "a")
    notices.look(api)
    notices.take()
    notes("1", WORKFLOW)
    assert notices.take() == [f"scan-1 will start {WORKFLOW} when Tiled and Prefect can be reached again"]
    assert silent.take() == []


def test_the_next_outage_is_told_again(settings, outbox, api):
    notices = PromptMessages(settings, clock=later)
    for uid in ("a", "b"):
        refused(outbox, uid)
        notices.look(api)
        assert len(notices.take()) == 1
        outbox.mark_sent(submission_key(uid, WORKFLOW), "id", "name")
        notices.look(api)


def test_an_outage_that_is_over_before_a_prompt_came_is_not_told(settings, outbox, api):
    refused(outbox, "a")
    notices = PromptMessages(settings, clock=later)
    notices.look(api)
    outbox.mark_sent(submission_key("a", WORKFLOW), "id", "name")
    notices.look(api)
    assert notices.take() == []


def test_a_moment_s_trouble_is_nobody_s_business(settings, outbox, api):
    refused(outbox, "a")
    notices = PromptMessages(settings)
    notices.look(api)
    assert notices.take() == []


@pytest.mark.parametrize("content", [None, b"not a database at all, but long enough to be looked at as one"])
def test_a_missing_or_broken_outbox_is_not_told_here(settings, api, content):
    if content is not None:
        settings.outbox_path.write_bytes(content)
    notices = PromptMessages(settings)
    notices.look(api)
    assert notices.take() == []
    assert settings.outbox_path.exists() is (content is not None)


def test_nobody_waits_for_a_prefect_that_never_answers(settings, outbox):
    refused(outbox, "a")
    outbox.mark_sent(submission_key("a", WORKFLOW), str(uuid4()), "name")
    proxy = FaultProxy(9)
    proxy.mode = "black-hole"

    def look():
        with temporary_settings({PREFECT_API_URL: f"{proxy.url}/api"}), PrefectApi(60) as api:
            notices.look(api)

    notices = PromptMessages(settings)
    thread = threading.Thread(target=look)
    thread.start()
    wait_until(lambda: proxy.struck)
    assert notices.take() == []  # returns while the request hangs
    assert thread.is_alive()
    proxy.close()
    thread.join()


def test_without_a_courier_prefect_looks_through_failures_once_in_half_a_minute(settings, outbox):
    refused(outbox, "a")
    flow_run_id = str(uuid4())
    outbox.mark_sent(submission_key("a", WORKFLOW), flow_run_id, "name")
    notices = PromptMessages(settings)
    with (
        closing(PrefectStandIn().start()) as prefect,
        temporary_settings({PREFECT_API_URL: prefect.url}),
        PrefectApi(5) as api,
    ):
        prefect.states[flow_run_id] = "RUNNING"
        for _ in range(5):
            notices.look(api)
        asked = [one["id"]["any_"] for one in prefect.filters if one.get("id")]
        assert asked == [[flow_run_id]] * 5
        assert len(prefect.filters) == 6


def test_a_run_that_tiled_refuses_is_told_of_once(settings):
    directory = JournalDirectory(settings.journals_path)
    notices = PromptMessages(settings)
    journal = Journal(directory.path, "0123456789")
    journal.append("start", {"uid": "0123456789"})
    journal.close()
    directory.refuse(journal.path, "no such format")
    for _ in range(2):
        notices.look_at_journals()
    assert notices.take() == ["Tiled refuses run 01234567 (see 'bluesky-prefect journal list'): no such format"]
    notices.look_at_journals()
    assert notices.take() == []


@pytest.fixture
def failure(outbox):
    """A flow run that failed, of a run of this outbox."""
    outbox.put(Submission(submission_key("a", WORKFLOW), WORKFLOW, WORKFLOW, "a"))
    return WorkflowStatus(
        run_uid="a",
        workflow=WORKFLOW,
        scan_id=7,
        plan_name="scan",
        state_type="FAILED",
        state="Failed",
        message="no such file",
        created=0.0,
        run_s=1.0,
        flow_run_id="1",
        flow_run_name="scan-7",
        url="http://prefect/runs/1",
    )


def test_failures_that_the_courier_has_found_are_told_without_prefect(settings, failure):
    notices, log = PromptMessages(settings), FailureLog(settings)
    assert log.read() == []
    notices.look(None)
    log._write([(failure, time.time() + 1)])
    for _ in range(2):
        notices.look(None)
    [line] = notices.take()
    assert line.startswith("Scan 7 (scan): flow run scan-7 failed: no such file")
    notices.look(None)
    assert notices.take() == []


@pytest.mark.parametrize("found_first", [False, True])
def test_a_failure_that_was_shown_elsewhere_is_not_told_again(settings, failure, found_first):
    notices = PromptMessages(settings)
    FailureLog(settings)._write([(failure, time.time() + 1)])
    if found_first:
        notices.look(None)
    notices.note_shown([failure])
    notices.look(None)
    assert notices.take() == []


def test_that_runs_wait_for_tiled_is_told_once_and_of_one_that_goes_on_nothing(settings):
    goes_on = Journal(settings.journals_path, "a")
    goes_on.append("start", {"uid": "a"})
    notices = PromptMessages(settings, clock=later)
    notices.look_at_journals()
    assert notices.take() == []
    goes_on.close()
    for _ in range(2):
        notices.look_at_journals()
    [line] = notices.take()
    assert line.startswith("1 run is waiting on disk and will be delivered to Tiled automatically")
    JournalDirectory(settings.journals_path).deliver(goes_on.path)
    notices.look_at_journals()
    assert notices.take() == []
