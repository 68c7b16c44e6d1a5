"""A flow says of itself that it must not be started again, and a real Prefect server keeps that."""

import os
import textwrap
import time

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings

from bluesky_prefect import Workflow
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.reconciliation._diagnosis import RunState
from tests.services.forked import run_module
from tests.services.prefect_process import prefect_settings
from tests.system.hutch import Hutch

FLOWS = """
from prefect import flow, task
from prefect.states import Failed

from bluesky_prefect import DoNotRerun


class BadSample(DoNotRerun):
    pass


@task
def look(ref):
    raise BadSample(f"no sample in {ref}")


@flow(name="says-so")
def raises(ref: str):
    raise DoNotRerun("files were moved")


@flow(name="says-so")
def derived(ref: str):
    look(ref)


@flow(name="says-so")
def returns(ref: str):
    return Failed(name="DoNotRerun", message="mail was sent")


@flow(name="says-so")
def fails(ref: str):
    raise ValueError("boom")
"""


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    directory = tmp_path_factory.mktemp("flows")
    (directory / "says_so.py").write_text(textwrap.dedent(FLOWS))
    return directory


@pytest.fixture
def hutch(stack, tmp_path):
    hutch = Hutch(stack, f"raw-{tmp_path.name}-{time.monotonic_ns()}", tmp_path / "state")
    with temporary_settings(prefect_settings(stack)):
        yield hutch
    hutch.close()


def executed(hutch, flows, kind):
    """Have a flow run of this kind executed, as a process of its own; return its run and workflow."""
    name = f"says-so/{kind}"
    with get_client(sync_client=True) as client:
        schema = {"type": "object", "properties": {"ref": {"type": "string"}}, "required": ["ref"]}
        flow_id = client.create_flow_from_name("says-so")
        options = {"parameter_openapi_schema": schema, "entrypoint": f"says_so.py:{kind}", "path": str(flows)}
        client.create_deployment(flow_id, kind, **options)
    uid = hutch.count()
    with PrefectApi(30, client_retries=True) as api:
        made = api.create_flow_run(Submission(submission_key(uid, name), name, name, uid))
    environment = {**os.environ, **hutch.environment, "PREFECT_LOCAL_STORAGE_PATH": str(flows / "storage")}
    run_module("prefect.engine", made.id, env=environment, cwd=flows)
    return uid, name


@pytest.mark.parametrize("kind", ["raises", "derived", "returns"])
def test_a_flow_that_says_so_is_told_of_and_not_started_again(hutch, flows, kind):
    uid, name = executed(hutch, flows, kind)
    workflows = [Workflow(name, when=lambda run: run.uid == uid)]
    report = hutch.reconcile(submit=True, workflows=workflows)
    [finding] = report.findings
    assert (finding.state, finding.solved) == (RunState.FAILED, False)
    assert finding.reason.startswith("it says that it must not be started again")
    assert "submit" in finding.remedy
    assert len(hutch.flow_runs(uid, name)) == 1

    left = hutch.cli("submit", uid, "--workflow", name)
    assert "must not be started again" in " ".join(left.stdout.split()), left.stderr
    assert len(hutch.flow_runs(uid, name)) == 1
    assert hutch.cli("submit", uid, "--workflow", name, "--again").returncode == 0
    assert len(hutch.flow_runs(uid, name)) == 2


def test_one_that_only_fails_is_started_again(hutch, flows):
    uid, name = executed(hutch, flows, "fails")
    assert hutch.reconcile(submit=True, workflows=[Workflow(name)]).all_processed
    assert len(hutch.flow_runs(uid, name)) == 2
