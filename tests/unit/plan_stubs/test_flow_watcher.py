"""What a plan that waits for a flow run finds in the outbox."""

from contextlib import closing

import pytest

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.core import Run, Submission
from bluesky_prefect.outbox import Draft
from bluesky_prefect.plan_stubs import _flow_watcher
from bluesky_prefect.plan_stubs._flow_watcher import FlowWatcher
from bluesky_prefect.watch import _status_lookup

# Of no other test in this process, which may be remembered.
UID = "run-of-a-watcher"
REFUSED = Draft(Submission(f"{UID}:f/one", "f/one", "f/one", UID), "declined", "when= refused the run")
MESSAGE = Submission.message(Run(uid=UID, start={}, stop={"exit_status": "fail"}), "run-failure:slack/mon")


@pytest.fixture
def drafts(tmp_path, monkeypatch):
    # Prefect has no flow runs.
    monkeypatch.setattr(_status_lookup, "past_flow_runs", lambda api, wanted, since: dict.fromkeys(wanted, ()))
    settings = Settings(state_directory=tmp_path)

    def put(*drafts):
        with closing(Outbox(settings.outbox_path)) as outbox:
            outbox.put_all(drafts)
        return FlowWatcher([UID], None, 5.0, settings)

    return put


@pytest.mark.parametrize("state", ["waiting", "dead"])
def test_a_message_about_a_failed_run_is_no_workflow(drafts, state):
    watcher = drafts(REFUSED, Draft(MESSAGE, state, None if state == "waiting" else "Prefect refuses a message"))
    result = watcher._result(UID, api=None)
    assert result is not None
    assert result.message == "the workflow did not want the run (when=)"


def test_a_run_with_nothing_but_a_message_is_looked_for_in_prefect(drafts, monkeypatch):
    monkeypatch.setattr(_flow_watcher, "flow_runs_of", lambda api, uid: [])
    assert drafts(Draft(MESSAGE))._result(UID, api=None) is None
