"""What is thought of the flow runs of a run: pure, with a clock of the test's own."""

import pytest

from bluesky_prefect.core import Settings
from bluesky_prefect.prefect_api import PastFlowRun, SignsOfLife
from bluesky_prefect.reconciliation._diagnosis import RunState, diagnose

SETTINGS = Settings(
    settle_s=60, stuck_after_s=600, heartbeat_timeout_s=600, max_reruns=3, rerun_backoff_s=100, rerun_failed=True
)
NOW = 1_000_000.0
ALIVE = SignsOfLife(last=NOW - 1, heartbeats=True)


def past(*states: str, age_s: float = 1000.0) -> list[PastFlowRun]:
    """Flow runs in these states; the last one came into its own `age_s` ago."""
    names = {"LATE": ("SCHEDULED", "Late")}
    return [
        PastFlowRun(n, f"id-{n}", f"name-{n}", *names.get(state, (state, state.title())), "boom", NOW - age_s)
        for n, state in enumerate(states)
    ]


def diagnosed(flow_runs, *, stopped=NOW - 5000, settings=SETTINGS, signs=ALIVE, gone=False, waits=""):
    return diagnose(
        flow_runs,
        stopped=stopped,
        now=NOW,
        settings=settings,
        signs_of_life=lambda one: signs,
        worker_is_gone=lambda one: gone,
        reason_to_wait=lambda one: waits,
    )


@pytest.mark.parametrize(
    ("states", "expected", "next_generation"),
    [
        ((), RunState.MISSING, 0),
        (("COMPLETED",), RunState.PROCESSED, None),
        (("CRASHED", "COMPLETED"), RunState.PROCESSED, None),
        (("COMPLETED", "CRASHED"), RunState.CRASHED, 2),
        (("CRASHED",), RunState.CRASHED, 1),
        (("CRASHED", "FAILED"), RunState.FAILED, 2),
        (("CRASHED", "RUNNING"), RunState.UNDER_WAY, None),
        (("PAUSED",), RunState.UNDER_WAY, None),
        (("CANCELLED",), RunState.CANCELLED, None),
        (("PENDING",), RunState.STUCK, None),
        (("LATE",), RunState.LATE, None),
    ],
)
def test_the_last_flow_run_decides(states, expected, next_generation):
    found = diagnosed(past(*states))
    assert (found.state, found.next_generation) == (expected, next_generation)


def test_a_flow_run_that_has_a_reason_to_wait_is_not_late():
    found = diagnosed(past("LATE"), waits="waits in queue backlog, which is paused")
    assert (found.state, found.reason) == (RunState.QUEUED, "waits in queue backlog, which is paused")
    assert not found.state.is_problem


@pytest.mark.parametrize("state", ["PENDING", "SCHEDULED", "RUNNING"])
def test_a_flow_run_that_has_just_got_there_is_under_way(state):
    assert diagnosed(past(state, age_s=10), signs=SignsOfLife(None, heartbeats=False)).state is RunState.UNDER_WAY


def test_what_pends_for_long_is_started_again_only_if_its_worker_is_gone():
    assert diagnosed(past("PENDING"), gone=False).ended is None
    found = diagnosed(past("PENDING"), gone=True)
    assert (found.state, found.next_generation, found.ended.id) == (RunState.ABANDONED, 1, "id-0")


def test_a_run_that_has_just_stopped_may_still_be_on_its_way():
    assert diagnosed([], stopped=NOW - 30).state is RunState.SETTLING
    assert diagnosed([], stopped=NOW - 90).state is RunState.MISSING


@pytest.mark.parametrize(
    ("ahead_s", "expected"), [(30, RunState.SETTLING), (90, RunState.MISSING), (1e9, RunState.MISSING)]
)
def test_a_run_that_stops_in_the_future_is_not_just_stopped_for_ever(ahead_s, expected):
    found = diagnosed([], stopped=NOW + ahead_s)
    assert (found.state, found.next_generation) == (expected, 0 if expected is RunState.MISSING else None)


def test_a_flow_run_that_fell_silent_is_marked_as_crashed_and_started_again():
    found = diagnosed(past("RUNNING"), signs=SignsOfLife(last=NOW - 700, heartbeats=True))
    assert (found.state, found.next_generation) == (RunState.SILENT, 1)
    assert found.ended is not None
    assert found.ended.id == "id-0"


def test_a_flow_run_with_a_recent_heartbeat_is_left_alone_however_long_it_runs():
    assert diagnosed(past("RUNNING", age_s=500_000)).state is RunState.UNDER_WAY


def test_silence_of_one_that_never_sent_a_heartbeat_means_little():
    quiet = SignsOfLife(last=NOW - 700, heartbeats=False)
    assert diagnosed(past("RUNNING"), signs=quiet).state is RunState.UNDER_WAY
    very_quiet = SignsOfLife(last=NOW - 3700, heartbeats=False)
    assert diagnosed(past("RUNNING", age_s=4000), signs=very_quiet).state is RunState.SILENT


def test_what_crashes_again_and_again_is_given_up_in_the_end():
    assert diagnosed(past(*["CRASHED"] * 3)).next_generation == 3
    found = diagnosed(past(*["CRASHED"] * 4))
    assert (found.state, found.next_generation) == (RunState.GIVEN_UP, None)
    assert "4 times" in found.reason
    assert "boom" in found.reason


def test_crashes_before_the_last_success_do_not_count():
    assert diagnosed(past("CRASHED", "CRASHED", "CRASHED", "COMPLETED", "CRASHED")).next_generation == 5


def test_each_rerun_waits_longer_than_the_one_before():
    first, *later = [diagnosed(past(*["CRASHED"] * n)) for n in (1, 2, 3)]
    assert first.not_before == 0.0, "at once, whatever the clock says"
    assert [found.not_before - found.since for found in later] == [100, 400]


def test_failures_are_left_alone_where_a_facility_wants_so():
    settings = SETTINGS.model_copy(update={"rerun_failed": False})
    assert diagnosed(past("FAILED"), settings=settings).next_generation is None
    assert diagnosed(past("FAILED"), settings=settings).state is RunState.FAILED
    assert diagnosed(past("CRASHED"), settings=settings).next_generation == 1
