"""What is started again by itself, as a workflow and its flow say."""

import pytest

from bluesky_prefect import DoNotRerun, Workflow
from bluesky_prefect.core import ConfigurationError, Settings
from bluesky_prefect.prefect_api import PastFlowRun, SignsOfLife
from bluesky_prefect.reconciliation._diagnosis import RunState, diagnose
from bluesky_prefect.reconciliation._rerun import must_not_rerun, permitted, settings_of

NOW = 1_000_000.0
SETTINGS = Settings(max_reruns=3, rerun_failed=True)


def past(*states, message="boom", name=None):
    return [
        PastFlowRun(n, f"id-{n}", f"name-{n}", state, name or state.title(), message, NOW - 1000)
        for n, state in enumerate(states)
    ]


def next_of(workflow, flow_runs, settings=SETTINGS):
    diagnosis = diagnose(
        flow_runs,
        stopped=NOW - 5000,
        now=NOW,
        settings=settings_of(workflow, settings),
        signs_of_life=lambda one: SignsOfLife(NOW - 900, heartbeats=True),
        worker_is_gone=lambda one: False,
        reason_to_wait=lambda one: "",
    )
    return permitted(diagnosis, flow_runs, workflow)


@pytest.mark.parametrize(
    ("rerun", "started_again"),
    [
        (None, {"CRASHED", "FAILED", "RUNNING"}),
        ("failed", {"CRASHED", "FAILED", "RUNNING"}),
        ("crashed", {"CRASHED", "RUNNING"}),
        ("never", set()),
    ],
)
def test_a_workflow_says_what_is_started_again_by_itself(rerun, started_again):
    workflow = Workflow("a/b", rerun=rerun)
    found = {one for one in ("CRASHED", "FAILED", "RUNNING") if next_of(workflow, past(one)).next_generation == 1}
    assert found == started_again
    assert next_of(workflow, []).next_generation == 0, "what was never started is no rerun"


def test_what_a_workflow_says_wins_over_the_setting():
    careful = SETTINGS.model_copy(update={"rerun_failed": False})
    assert next_of(Workflow("a/b"), past("FAILED"), careful).next_generation is None
    assert next_of(Workflow("a/b", rerun="failed"), past("FAILED"), careful).next_generation == 1


def test_a_workflow_says_how_often_it_is_started_again():
    twice = Workflow("a/b", max_reruns=1)
    assert next_of(twice, past("FAILED")).next_generation == 1
    assert next_of(twice, past("FAILED", "FAILED")).state is RunState.GIVEN_UP
    assert next_of(Workflow("a/b", max_reruns=0), past("CRASHED")).next_generation is None


class BadSample(DoNotRerun):
    pass


@pytest.mark.parametrize(
    "flow_run",
    [
        past("FAILED", name="DoNotRerun")[0],
        *(past("FAILED", message=f"Flow run encountered an exception: {type(error).__name__}: {error}")[0]
          for error in (DoNotRerun("no sample"), BadSample("no sample"), BadSample())),
    ],
)  # fmt: skip
def test_a_flow_that_says_so_is_not_started_again_by_itself(flow_run):
    assert must_not_rerun(flow_run)
    found = next_of(Workflow("a/b"), [flow_run])
    assert (found.state, found.next_generation) == (RunState.FAILED, None)
    assert "must not be started again" in found.reason


def test_a_flow_run_that_completed_says_nothing_of_reruns():
    assert not must_not_rerun(past("COMPLETED", name="DoNotRerun")[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rerun": "always"}, "rerun="),
        ({"rerun": True}, "rerun="),
        ({"max_reruns": -1}, "max_reruns="),
        ({"max_reruns": 101}, "max_reruns="),
        ({"max_reruns": True}, "max_reruns="),
        ({"max_reruns": "3"}, "max_reruns="),
        ({"rerun": "never", "max_reruns": 3}, "max_reruns="),
    ],
)
def test_a_policy_that_is_none_is_refused_with_what_may_be_written(arguments, said):
    with pytest.raises(ConfigurationError, match=said):
        Workflow("a/b", **arguments)
