"""The local stack reconciles by itself: nobody has to remember to."""

import bluesky.plans as bp
import pytest
from tiled.client import from_uri

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.cli._comparison import Comparison, compare_run, run_folder
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.stack import DEPLOYMENT, LocalStack
from tests.services.prefect_process import ask, wait_until
from tests.system.beamline import Beamline


@pytest.fixture
def info(own_stack):
    return own_stack(reconcile_every_s=10, settle_s=0).up(print)


def flow_runs(info, name):
    body = {
        "flows": {"name": {"any_": [name]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
        "sort": "END_TIME_DESC",
    }
    return ask(info, "POST", "/flow_runs/filter", json=body).raise_for_status().json()


def last_message(info, name):
    return next((one["state"]["message"] or "" for one in flow_runs(info, name)), "")


def test_what_nobody_started_is_processed_and_what_cannot_be_is_an_alarm(info):
    root = from_uri(info.tiled_uri, api_key=info.tiled_api_key.get_secret_value())
    beamline = Beamline(root["raw"], info.images)
    [uid] = beamline.run(bp.count([beamline.devices.det], 3))  # with no callback: Prefect never hears of it

    [processed] = wait_until(lambda: flow_runs(info, "my-workflow"), timeout_s=120)
    assert (processed["state_type"], processed["idempotency_key"]) == ("COMPLETED", submission_key(uid, DEPLOYMENT))
    folder = run_folder(info.exports, uid)
    assert folder is not None
    comparison = Comparison()
    compare_run(root["raw"][uid], folder, comparison)
    assert (comparison.files, comparison.differences) == (1, [])
    wait_until(lambda: "all processed" in last_message(info, "reconcile"))
    root.context.close()

    outbox = Outbox(Settings(state_directory=info.state_directory).outbox_path)
    outbox.put(Submission("dead:key", DEPLOYMENT, DEPLOYMENT, "dead"), dead="no such sample")
    outbox.close()
    wait_until(lambda: flow_runs(info, "reconcile")[0]["state_type"] == "FAILED")
    [alarm, *_] = flow_runs(info, "reconcile")
    assert alarm["state"]["message"].endswith("1 needs attention. See: bluesky-prefect reconcile")
    assert len(flow_runs(info, "my-workflow")) == 1

    status = LocalStack(Settings(state_directory=info.state_directory)).status()
    listed = [flow_run.name for flow_run in status.flow_runs]
    assert listed == [processed["name"]], "what a schedule made is not a run's"
