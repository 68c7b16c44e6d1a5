"""What is thought of runs that Prefect has no flow run of: a Prefect that knows nothing, and a real outbox."""

from types import SimpleNamespace

import numpy as np
import pytest

from bluesky_prefect import Outbox, Settings, Workflow
from bluesky_prefect.reconciliation.assessment import Assessment
from bluesky_prefect.reconciliation.machine_outbox import MachineOutbox
from bluesky_prefect.reconciliation.runs import StoredRun
from bluesky_prefect.reconciliation.verdict import Verdict
from bluesky_prefect.workflow_list import as_workflows

NOW = 1_000_000.0
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
    return StoredRun(uid, {"uid": uid, **start}, {"run_start": uid, "time": NOW - 5000})


def assessed(runs, workflow, outbox=None):
    api = EmptyPrefect()
    return list(Assessment(api, as_workflows(workflow), Settings(), MachineOutbox(outbox), lambda: NOW).of(runs))


def test_a_when_whose_answer_is_neither_yes_nor_no_leaves_that_run_to_a_person_and_the_rest_goes_on():
    workflow = Workflow("flow/local", when=lambda run: np.isin(run.start["detectors"], ["det", "cam"]))
    runs = [run("one", detectors=["det"]), run("two", detectors=["det", "cam"]), run("none", detectors=["x"])]
    found = {one.finding.run_uid if hasattr(one, "finding") else one.run_uid: one for one in assessed(runs, workflow)}
    assert {uid: one.verdict for uid, one in found.items()} == {"one": Verdict.MISSING, "two": Verdict.UNDECIDED}
    assert "ambiguous" in found["two"].reason
