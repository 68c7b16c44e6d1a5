"""Which flow runs are asked for, how often, and what is made of the answers."""

import pytest

from bluesky_prefect.metrics._followed_flow_runs import MAX_FOLLOWED, FollowedFlowRuns, Moment
from bluesky_prefect.prefect_api import FlowRunTimes


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def followed(clock):
    return FollowedFlowRuns(clock)


def answer(followed, times):
    return followed.saw(followed.due(), times)


def test_a_flow_run_is_told_to_run_once_and_to_end_once(followed, clock):
    followed.add("a", "flow/one", 100.0)
    clock.now = 5
    running = FlowRunTimes("RUNNING", 101.0, None)
    assert answer(followed, {"a": running}) == [Moment("flow/one", "running", "", 1.0)]
    clock.now = 10
    assert answer(followed, {"a": running}) == []
    clock.now = 20
    ended = FlowRunTimes("COMPLETED", 101.0, 104.0)
    assert answer(followed, {"a": ended}) == [Moment("flow/one", "ended", "completed", 4.0)]
    clock.now = 1e6
    assert followed.due() == []


def test_a_flow_run_that_ended_between_two_looks_has_both_moments(followed, clock):
    followed.add("a", "flow/one", 100.0)
    clock.now = 5
    assert answer(followed, {"a": FlowRunTimes("FAILED", 101.0, 102.0)}) == [
        Moment("flow/one", "running", "", 1.0),
        Moment("flow/one", "ended", "failed", 2.0),
    ]


def test_one_that_never_ran_has_only_ended(followed, clock):
    followed.add("a", "flow/one", 100.0)
    clock.now = 5
    assert answer(followed, {"a": FlowRunTimes("CANCELLED", None, 102.0)}) == [
        Moment("flow/one", "ended", "cancelled", 2.0)
    ]


def test_one_that_prefect_has_no_longer_is_not_asked_for_again(followed, clock):
    followed.add("a", "flow/one", 100.0)
    clock.now = 5
    assert answer(followed, {}) == []
    clock.now = 1e6
    assert followed.due() == []


def test_one_that_waits_for_a_worker_for_a_day_is_asked_for_ever_more_rarely(followed, clock):
    followed.add("a", "flow/one", 100.0)
    asked = 0
    while clock.now < 86400:
        clock.now += 5
        asked += len(due := followed.due())
        followed.saw(due, {"a": FlowRunTimes("SCHEDULED", None, None)})
    assert 20 < asked < 60


def test_a_backlog_costs_one_request_of_a_bounded_size_at_each_look(followed, clock):
    for number in range(2 * MAX_FOLLOWED):
        followed.add(f"{number}", "flow/one", 100.0)
    clock.now = 5
    seen = []
    while due := followed.due():
        assert len(due) <= 50
        seen += due
        followed.saw(due, {one: FlowRunTimes("RUNNING", 1.0, None) for one in due})
    assert sorted(seen) == sorted(f"{number}" for number in range(MAX_FOLLOWED, 2 * MAX_FOLLOWED))
