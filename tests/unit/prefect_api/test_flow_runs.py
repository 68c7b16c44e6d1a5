"""Flow runs found by their keys, in a Prefect that has those which a test gives it."""

import time
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State

from bluesky_prefect import Workflow
from bluesky_prefect.core import Run, submission_key
from bluesky_prefect.prefect_api import past_flow_runs
from bluesky_prefect.reconciliation._former_names import begun_otherwise

WANTED = ("uid", "flow/local")


class Prefect:
    """Has a flow run in a state for each of some generations; remembers what it was asked."""

    def __init__(self, states):
        self._states = {submission_key(*WANTED, generation): state for generation, state in states.items()}
        self.client = SimpleNamespace(read_flow_runs=self.read_flow_runs)
        self.asked = []

    def read_flow_runs(self, *, flow_run_filter, **_):
        self.asked.append(flow_run_filter)
        keys = flow_run_filter.idempotency_key.any_ if flow_run_filter.idempotency_key else []
        known = [key for key in keys if key in self._states]
        return [FlowRun(flow_id=uuid4(), idempotency_key=key, state=State(type=self._states[key])) for key in known]


def generations(prefect, since_s=0.0):
    return [one.generation for one in past_flow_runs(prefect, [WANTED], since_s)[WANTED]]


@pytest.mark.parametrize(
    "states",
    [
        {0: "CRASHED", 2: "COMPLETED"},
        {0: "CRASHED", 4: "COMPLETED"},
        {0: "CANCELLED", 3: "COMPLETED"},
        {1: "FAILED", 2: "COMPLETED"},
        {0: "COMPLETED", 1: "COMPLETED", 2: "CRASHED", 8: "CRASHED", 11: "COMPLETED"},
    ],
)
def test_a_flow_run_that_was_deleted_hides_none_that_came_after_it(states):
    assert generations(Prefect(states)) == list(states)


@pytest.mark.parametrize(
    ("states", "requests"),
    [
        ({0: "COMPLETED"}, 1),
        ({0: "RUNNING"}, 1),
        ({0: "SCHEDULED"}, 1),
        ({0: "CRASHED"}, 2),
        ({0: "CRASHED", 1: "COMPLETED"}, 2),
        (dict.fromkeys(range(6), "CRASHED"), 2),  # given up, with the settings of most
    ],
)
def test_few_questions_are_asked_where_nothing_more_can_be(states, requests):
    prefect = Prefect(states)
    assert generations(prefect) == list(states)
    assert len(prefect.asked) == requests


@pytest.mark.parametrize("since_s", [1.7e12, float("inf"), float("nan"), 4e9, -1e12, float("-inf")])
def test_runs_whose_time_cannot_be_have_their_flow_runs_found_all_the_same(since_s):
    prefect = Prefect({0: "COMPLETED"})
    assert generations(prefect, since_s) == [0]
    run = Run("uid", {}, {"time": since_s})
    assert begun_otherwise(prefect, [(run, Workflow(WANTED[1]))], [], since_s) == {}
    assert {one.expected_start_time.after_.timestamp() for one in prefect.asked} == {0.0}


def test_what_was_made_long_before_the_runs_is_not_searched():
    prefect, since_s = Prefect({}), time.time() - 10 * 86400
    generations(prefect, since_s)
    assert all(one.expected_start_time.after_.timestamp() == pytest.approx(since_s - 86400) for one in prefect.asked)
