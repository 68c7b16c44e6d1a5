"""What reconciliation found, in a line."""

from collections import Counter

import pytest

from bluesky_prefect.reconciliation._diagnosis import RunState
from bluesky_prefect.reconciliation._report import Finding, Report

_CRASHED = Finding("u", 1, "count", "w", RunState.CRASHED, 0.0)


@pytest.mark.parametrize(
    ("states", "findings", "said"),
    [
        ({}, [], "0 flow runs expected"),
        ({RunState.PROCESSED: 20}, [], "20 flow runs expected: all processed"),
        (
            {RunState.PROCESSED: 3, RunState.BEFORE_LISTED: 1},
            [],
            "3 flow runs expected: all processed, 1 before it was listed",
        ),
        ({RunState.OPEN: 1}, [], "0 flow runs expected: 1 not stopped yet"),
        (
            {RunState.PROCESSED: 2, RunState.CRASHED: 1, RunState.OPEN: 1},
            [_CRASHED],
            "3 flow runs expected: 2 processed, 1 crashed, 1 not stopped yet; 1 needs attention",
        ),
    ],
)
def test_a_summary_says_how_many_flow_runs_there_should_be(states, findings, said):
    assert Report(0.0, None, 1, Counter(states), findings).summary == said


def test_the_remedy_for_one_workflow_starts_no_other_of_the_run():
    given_up = Finding("0a1b2c3d-rest", 1, "count", "align two/srx", RunState.GIVEN_UP, 0.0)
    assert given_up.remedy.endswith("bluesky-prefect submit 0a1b2c3d --workflow 'align two/srx' --again")
