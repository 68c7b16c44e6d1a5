"""What is thought of runs that Prefect has no flow run of: a Prefect that knows nothing, and a real outbox."""

import time
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest
from prefect.client.schemas.objects import FlowRun, State

from bluesky_prefect import Outbox, Settings, Workflow
from bluesky_prefect.core import Run, Submission, as_workflows, key_parts, submission_key
from bluesky_prefect.reconciliation._case_finder import CaseFinder
from bluesky_prefect.reconciliation._diagnosis import RunState
from bluesky_prefect.reconciliation._machine_outbox import MachineOutbox

NOW = 1_000_000.0
DAY_S = 86400.0
HERE = "http://here:4200/api"


class EmptyPrefect:
    """Has no flow runs."""

    api_url = HERE

    def __init__(self):
        self.client = SimpleNamespace(read_flow_runs=lambda **asked: [])


@pytest.fixture
def outbox(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    yield outbox
    outbox.close()


def run(uid, **start):
    return Run(uid, {"uid": uid, **start}, {"run_start": uid, "time": NOW - 5000})


def assessed(runs, workflow, outbox=None, since=0.0, api=None, **memory):
    listed = as_workflows(workflow)
    dates = {one.name: since for one in listed}
    finder = CaseFinder(api or EmptyPrefect(), listed, Settings(), MachineOutbox(outbox), lambda: NOW, dates, **memory)
    return list(finder.of(runs))


def test_a_when_that_answers_neither_yes_nor_no_leaves_that_run_to_a_person():
    workflow = Workflow("flow/local", when=lambda run: np.isin(run.start["detectors"], ["det", "cam"]))
    runs = [run("one", detectors=["det"]), run("two", detectors=["det", "cam"]), run("none", detectors=["x"])]
    found = {one.finding.run_uid if hasattr(one, "finding") else one.run_uid: one for one in assessed(runs, workflow)}
    assert {uid: one.state for uid, one in found.items()} == {"one": RunState.MISSING, "two": RunState.UNDECIDED}
    assert "ambiguous" in found["two"].reason


THERE = "http://there:4200/api"
WORKFLOW = Workflow("flow/local")


def put(outbox, uid, api_url, **options):
    submission = Submission(submission_key(uid, WORKFLOW.name), WORKFLOW.name, WORKFLOW.deployment, uid)
    outbox.put(submission, api_url=api_url, **options)
    return submission


def sent(outbox, submission):
    outbox.mark_sent(submission.key, "id", "scan-10-there")


@pytest.mark.parametrize(("happen", "said"), [(lambda *_: None, "waits for"), (sent, "scan-10-there was made by")])
def test_what_is_for_another_prefect_server_is_shown_and_not_started_here(outbox, happen, said):
    happen(outbox, put(outbox, "one", THERE))
    [case] = assessed([run("one")], WORKFLOW, outbox)
    assert (case.state, case.diagnosis.next_generation) == (RunState.ELSEWHERE, None)
    assert case.state.is_problem
    assert THERE in case.diagnosis.reason
    assert said in case.diagnosis.reason
    assert "outbox move" in case.finding.remedy
    assert "submit one" in case.finding.remedy


@pytest.mark.parametrize("api_url", [HERE, None])
def test_what_waits_for_this_server_or_any_is_started_here(outbox, api_url):
    put(outbox, "one", api_url)
    [case] = assessed([run("one")], WORKFLOW, outbox)
    assert (case.state, case.diagnosis.next_generation) == (RunState.WAITING, 0)


def test_a_run_that_stopped_just_before_its_workflow_was_listed_waits_for_nothing(outbox):
    just = Run("one", {"uid": "one"}, {"run_start": "one", "time": NOW - 2})
    [case] = assessed([just], WORKFLOW, outbox, since=NOW - 1)
    assert case.state is RunState.BEFORE_LISTED
    put(outbox, "one", HERE)
    [case] = assessed([just], WORKFLOW, outbox, since=NOW - 1)
    assert case.state is RunState.SETTLING


def test_a_dead_letter_stays_one_whatever_server_it_was_for(outbox):
    put(outbox, "one", THERE, dead="its reason")
    [case] = assessed([run("one")], WORKFLOW, outbox)
    assert case.state is RunState.DEAD


def test_a_when_that_changes_its_run_changes_it_for_itself_alone():
    def careless(run):
        return run.start.pop("plan_name") == "count"

    workflows = [
        Workflow("flow/local", when=careless),
        Workflow("other/local", when=lambda run: "plan_name" in run.start),
    ]
    one = run("one", plan_name="count")
    assert len(assessed([one], workflows)) == 2
    assert one.start["plan_name"] == "count"


class DatedPrefect(EmptyPrefect):
    """Has completed first flow runs, each due at a time in seconds since the epoch; answers as it is asked by both."""

    def __init__(self, due):
        self._due = {submission_key(uid, WORKFLOW.name): time_s for uid, time_s in due.items()}
        self.client = SimpleNamespace(read_flow_runs=self._read)

    def _read(self, *, flow_run_filter, **_):
        after_s = flow_run_filter.expected_start_time.after_.timestamp()
        keys = flow_run_filter.idempotency_key.any_ if flow_run_filter.idempotency_key else []
        known = [key for key in keys if self._due.get(key, -1.0) >= after_s]
        return [FlowRun(flow_id=uuid4(), idempotency_key=key, state=State(type="COMPLETED")) for key in known]


def test_the_flow_run_of_a_run_that_stopped_days_ahead_is_found():
    now = time.time()
    api = DatedPrefect({"ahead": now - 2 * DAY_S, "recent": now - 100})
    runs = [Run(uid, {"uid": uid}, {"time": now + s}) for uid, s in {"ahead": 3 * DAY_S, "recent": -200}.items()]
    listed = as_workflows(WORKFLOW)
    always = {one.name: 0.0 for one in listed}
    finder = CaseFinder(api, listed, Settings(), MachineOutbox(None), lambda: now, always)
    found = {case.run.uid: case.state for case in finder.of(runs)}
    assert found == {"ahead": RunState.PROCESSED, "recent": RunState.PROCESSED}


class CrashedPrefect(EmptyPrefect):
    """Has a first flow run of each run, and it has crashed."""

    def __init__(self):
        self.client = SimpleNamespace(read_flow_runs=self._read)

    def _read(self, *, flow_run_filter, **_):
        keys = flow_run_filter.idempotency_key.any_ if flow_run_filter.idempotency_key else []
        first = [key for key in keys if key_parts(key)[2] == 0]
        return [FlowRun(flow_id=uuid4(), idempotency_key=key, state=State(type="CRASHED")) for key in first]


# The run stopped at NOW - 5000.
OLDER, YOUNGER = NOW - 4000, NOW - 6000


@pytest.mark.parametrize(("since", "expected"), [(OLDER, (RunState.FORGOTTEN, None)), (YOUNGER, (RunState.MISSING, 0))])
def test_a_run_older_than_prefect_s_memory_is_neither_missing_nor_started(outbox, since, expected):
    sent(outbox, put(outbox, "sent", HERE))
    cases = assessed([run("one"), run("sent")], WORKFLOW, outbox, remembered_since=since)
    assert [(case.state, case.diagnosis.next_generation) for case in cases] == [expected, expected]
    assert {case.state.is_problem for case in cases} == {expected[0] is RunState.MISSING}


@pytest.mark.parametrize(("since", "generation"), [(OLDER, None), (YOUNGER, 1)])
def test_what_crashed_before_prefect_s_memory_begins_is_left_to_a_person(since, generation):
    """Of its flow runs some may be deleted, so nobody knows how often it was tried."""
    [case] = assessed([run("one")], WORKFLOW, api=CrashedPrefect(), remembered_since=since)
    assert (case.state, case.diagnosis.next_generation) == (RunState.CRASHED, generation)
    assert case.finding.by_hand == (generation is None)


def test_what_this_machine_has_never_sent_is_not_forgotten(outbox):
    put(outbox, "one", HERE)
    [case] = assessed([run("one")], WORKFLOW, outbox, remembered_since=OLDER)
    assert (case.state, case.diagnosis.next_generation) == (RunState.WAITING, 0)
