"""The main job on a whole stack: what a worker does with the flow runs that stop documents start."""

import os
from pathlib import Path
from typing import Any

import pytest

from bluesky_prefect.stack import StackInfo
from tests.services.forked import run_code, run_command
from tests.services.prefect_process import ask, wait_until
from tests.system.session import Acquisition

HERE = Path(__file__).parent
DEPLOY = """
import sys
from prefect import flow
flow.from_source(source=sys.argv[1], entrypoint="beamline_flows.py:end_of_run_workflow").deploy(
    name="tst-docker", work_pool_name=sys.argv[2], print_next_steps=False, ignore_warnings=True)
"""


@pytest.fixture(scope="module")
def acquired(stack: StackInfo, tmp_path_factory, stack_settings) -> dict[str, Any]:
    """One session at the beamline: what it ran, and the flow runs that came of it, ended."""
    environment = {**os.environ, **stack.environment()}
    run_code(DEPLOY, str(HERE), stack_settings.work_pool, env=environment).check_returncode()
    state = tmp_path_factory.mktemp("session")
    session = Acquisition(state, stack.environment(), "my-workflow/local", "end-of-run-workflow/tst-docker")
    try:
        uids = {"plain": session.run("count"), "opted out": session.run("opt-out"), "hostile": session.run("hostile")}
        wait_until(lambda: session.outbox_counts() == (0, 4, 0))
    finally:
        session.kill()
    wait_until(lambda: all(_ended(stack, uids[name]) for name in ("plain", "hostile")), timeout_s=150)
    return {name: _flow_runs(stack, uid) for name, uid in uids.items()} | {"uids": uids}


def _flow_runs(stack: StackInfo, uid: str) -> list[dict[str, Any]]:
    asked = {"flow_runs": {"tags": {"all_": [f"uid:{uid}"]}, "parent_task_run_id": {"is_null_": True}}}
    response = ask(stack, "POST", "/flow_runs/filter", json=asked)
    return [] if response.status_code == 503 else response.raise_for_status().json()


def _ended(stack: StackInfo, uid: str) -> bool:
    found = _flow_runs(stack, uid)
    return len(found) == 2 and all(one["state_type"] in ("COMPLETED", "FAILED", "CRASHED") for one in found)


def test_every_flow_run_completes(acquired):
    states = {one["name"]: one["state_name"] for name in ("plain", "hostile") for one in acquired[name]}
    messages = [one["state"]["message"] for name in ("plain", "hostile") for one in acquired[name]]
    assert set(states.values()) == {"Completed"}, messages


def test_a_beamlines_own_end_of_run_workflow_runs_unmodified(acquired):
    [run] = [one for one in acquired["plain"] if "stop_doc" in one["parameters"]]
    assert set(run["parameters"]) - {"stop_doc"} <= {"api_key", "dry_run"}
    assert run["parameters"]["stop_doc"]["run_start"] == acquired["uids"]["plain"]


def test_deploying_to_a_server_of_ones_own_is_one_command(stack, stack_settings):
    environment = {**os.environ, **stack.environment()}
    command = ["deploy", "--name", "again", "--work-pool"]
    done = run_command(*command, stack_settings.work_pool, env=environment)
    assert done.returncode == 0, done.stderr
    assert 'PrefectCallback("my-workflow/again")' in done.stderr
    for flow in ("my-workflow", "data-validation", "find-peak"):
        found = ask(stack, "GET", f"/deployments/name/{flow}/again").json()
        assert found["entrypoint"].startswith("bluesky_prefect.flows")
    refused = run_command(*command, "no-such-pool", env=environment)
    assert refused.returncode == 1
    assert "prefect work-pool create no-such-pool" in refused.stderr


def test_a_run_that_opted_out_has_no_flow_run(acquired):
    assert acquired["opted out"] == []


def test_a_run_with_hostile_metadata_is_exported_inside_the_output_directory(acquired, stack):
    uid = acquired["uids"]["hostile"]
    summaries = [path for path in stack.exports.rglob("*.txt") if uid in path.read_text()]
    assert len(summaries) == 1
    assert summaries[0].resolve().is_relative_to(stack.exports.resolve())
    assert "x" in summaries[0].name


def test_a_plain_run_leaves_its_summary_data_and_plot(acquired, stack):
    [summary] = [path for path in stack.exports.rglob("*.txt") if acquired["uids"]["plain"] in path.read_text()]
    assert summary.name == "scan_1_count.txt"
    assert {path.suffix for path in summary.parent.iterdir() if not path.name.startswith(".")} == {
        ".txt",
        ".csv",
        ".nxs",
        ".png",
    }
