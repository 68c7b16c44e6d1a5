"""What the outbox is told of a start; Prefect accepts everything."""

import pytest

from bluesky_prefect import Outbox, Workflow
from bluesky_prefect.core import Run, Submission, submission_key
from bluesky_prefect.prefect_api import FlowRunRef
from bluesky_prefect.reconciliation import FlowRunStarter

HERE, THERE = "http://here:4200/api", "http://there:4200/api"
WORKFLOW = Workflow("flow/local")


class Accepting:
    """A Prefect that makes a flow run of everything."""

    api_url = HERE

    def __init__(self):
        self.live = []

    def create_flow_run(self, submission, *, live):
        self.live.append(live)
        return FlowRunRef("id-here", "name-here")


@pytest.mark.parametrize(("api_url", "state"), [(HERE, "sent"), (None, "sent"), (THERE, "waiting")])
def test_what_is_started_here_is_not_taken_from_the_server_it_waits_for(tmp_path, api_url, state):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put(Submission(submission_key("one", WORKFLOW.name), WORKFLOW.name, "flow/local", "one"), api_url=api_url)
    FlowRunStarter(Accepting(), outbox).start(Run("one", {"uid": "one"}, {"time": 1.0}), WORKFLOW, 0)
    [entry] = outbox.entries(run_uid="one")
    taken = outbox.take(THERE)
    outbox.close()
    assert entry.state == state
    assert (taken is not None) == (api_url == THERE)


def test_what_is_started_again_waits_behind_runs_that_have_just_ended_unless_it_is_live():
    api = Accepting()
    starter = FlowRunStarter(api, None)
    run = Run("one", {"uid": "one"}, {"time": 1.0})
    starter.start(run, WORKFLOW, 0)
    starter.start(run, WORKFLOW, 1, live=True)
    assert api.live == [False, True]
