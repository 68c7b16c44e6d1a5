"""What the worker knows of each flow run, without processes and without Prefect."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest

from bluesky_prefect.worker._flow_runs import MAX_ENDED, FlowRunsInHand, Phase

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FORKED = SimpleNamespace()


def scheduled(flow_run=None):
    """A flow run as a list of scheduled ones has it; the same one in another scheduled state."""
    return SimpleNamespace(id=flow_run.id if flow_run else uuid4(), state_id=uuid4())


def begin(in_hand, flow_run, pending_since):
    in_hand.propose(flow_run.id, proposal=None)
    in_hand.accept(flow_run.id, pending_since)
    return in_hand.begin(flow_run, FORKED)


@pytest.fixture
def ended():
    return []


@pytest.fixture
def in_hand(ended):
    return FlowRunsInHand(on_ended=ended.append)


def test_a_flow_run_is_pending_until_it_begins_or_has_another_state(in_hand):
    first, second = scheduled(), scheduled()
    for flow_run in (first, second):
        assert in_hand.may_take(flow_run)
        in_hand.propose(flow_run.id, proposal=None)
    in_hand.withdraw(second.id)
    in_hand.begin(first, FORKED)
    in_hand.withdraw(first.id)
    assert in_hand.all_in(Phase.PENDING) == []
    assert [one.id for one in in_hand.all_in(Phase.EXECUTING)] == [first.id]


def test_a_list_that_was_made_before_a_flow_run_was_taken_is_out_of_date_also_after_its_end(in_hand):
    flow_run = scheduled()
    one = in_hand.begin(flow_run, FORKED)
    assert not in_hand.may_take(flow_run)
    in_hand.end(one)
    assert not in_hand.may_take(flow_run)
    assert not one.again
    assert in_hand.may_take(scheduled(flow_run))


@pytest.mark.parametrize("phase", [Phase.EXECUTING, Phase.CANCELLING, Phase.SETTLING, Phase.CRASH_HOOKS])
def test_a_retry_waits_for_the_end_of_what_is_there_and_is_told_then(in_hand, ended, phase):
    flow_run = scheduled()
    one = in_hand.begin(flow_run, FORKED)
    one.phase = phase
    retry = scheduled(flow_run)
    assert not in_hand.may_take(retry)
    assert in_hand.is_again(flow_run.id)
    in_hand.end(one)
    assert ended == [one]
    assert one.again
    assert in_hand.may_take(retry)
    in_hand.begin(retry, FORKED)
    assert not in_hand.is_again(flow_run.id)


def test_a_flow_run_is_cancelled_once(in_hand):
    flow_run = scheduled()
    one = begin(in_hand, flow_run, NOW)
    assert in_hand.cancel(flow_run.id, NOW + timedelta(seconds=1)) is one
    assert one.phase is Phase.CANCELLING
    assert in_hand.cancel(flow_run.id) is None
    assert in_hand.cancel(uuid4()) is None


def test_a_cancellation_of_an_earlier_attempt_that_is_heard_late_cancels_no_retry(in_hand):
    flow_run = scheduled()
    in_hand.end(begin(in_hand, flow_run, NOW))
    retry = begin(in_hand, scheduled(flow_run), NOW + timedelta(seconds=9))
    assert in_hand.cancel(flow_run.id, NOW + timedelta(seconds=5)) is None
    assert retry.phase is Phase.EXECUTING
    assert in_hand.cancel(flow_run.id, NOW + timedelta(seconds=10)) is retry


def test_a_flow_run_that_has_ended_may_still_be_cancelled(in_hand):
    flow_run = scheduled()
    one = in_hand.begin(flow_run, FORKED)
    in_hand.end(one)
    assert in_hand.cancel(flow_run.id) is one
    assert one.phase is Phase.ENDED


def test_what_another_worker_executes_is_not_cancelled_here(in_hand):
    flow_run = scheduled()
    in_hand.begin(flow_run, None)
    assert in_hand.cancel(flow_run.id) is None


@pytest.mark.parametrize(("accepted", "then"), [(True, Phase.CRASH_HOOKS), (False, Phase.ENDED)])
def test_a_crash_outlives_the_process_until_it_is_reported(in_hand, accepted, then):
    flow_run = scheduled()
    one = in_hand.begin(flow_run, FORKED)
    one.phase = Phase.CRASHED
    in_hand.end(one)
    assert one.phase is Phase.CRASHED
    assert in_hand.report_crash(flow_run.id, accepted) is (one if accepted else None)
    assert one.phase is then
    assert in_hand.report_crash(flow_run.id, True) is None


def test_of_those_that_have_ended_the_last_ones_are_remembered(in_hand):
    flow_runs = [scheduled() for _ in range(MAX_ENDED + 2)]
    running = in_hand.begin(scheduled(), FORKED)
    attempts = [in_hand.begin(flow_run, FORKED) for flow_run in flow_runs]
    for one in reversed(attempts):
        in_hand.end(one)
    assert [in_hand.may_take(flow_run) for flow_run in flow_runs[-3:]] == [False, True, True]
    assert in_hand.all_in(Phase.EXECUTING) == [running]
