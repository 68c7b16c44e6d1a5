"""Plans that a real blueapi runs, with the files of the how-to, are recorded and start workflows.

'make blueapi' runs this: blueapi's Tiled is older than this environment's.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from bluesky_prefect.core import RunNotFound, Settings
from bluesky_prefect.stack import StackInfo
from tests.services.blueapi import Blueapi
from tests.services.prefect_process import ask, user_of, wait_until

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api import Catalog

pytestmark = pytest.mark.timeout(600)

_FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_WORKFLOWS = """
from bluesky_prefect import Workflow, succeeded

workflows = [Workflow("data-validation/local"), Workflow("my-workflow/local", when=succeeded)]
"""


@pytest.fixture(scope="module")
def server(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blueapi]:
    folder = tmp_path_factory.mktemp("blueapi")
    listed = folder / "hutch_workflows.py"
    listed.write_text(_WORKFLOWS)
    environment = {
        "PREFECT_API_URL": stack.prefect_api_url,
        "PREFECT_API_AUTH_STRING": user_of(stack),
        "BLUESKY_PREFECT_STATE_DIRECTORY": str(stack.state_directory),
        "BLUESKY_PREFECT_WORKFLOWS": f"{listed}:workflows",
    }
    with closing(Blueapi(folder, environment)) as server:
        yield server


@pytest.fixture(scope="module")
def runs(stack: StackInfo) -> "Iterator[Catalog]":
    from bluesky_prefect.tiled_api import Catalog

    with Catalog.connect(Settings(tiled_uri=stack.tiled_uri, tiled_api_key=stack.tiled_api_key)) as catalog:
        yield catalog


def _flow_runs(stack: StackInfo, uid: str, workflows: set[str]) -> dict[str, str]:
    """Return the states of a run's flow runs by their workflows, once those of all these are there and have ended."""

    def ended() -> dict[str, str]:
        body = {"flow_runs": {"tags": {"all_": [f"uid:{uid}"]}}}
        found = ask(stack, "POST", "/flow_runs/filter", json=body).raise_for_status().json()
        states = {one["idempotency_key"].partition(":")[2]: one["state"]["type"] for one in found}
        return states if workflows <= states.keys() and set(states.values()) <= _FINAL else {}

    return wait_until(ended, timeout_s=150)


def _rows(runs: "Catalog", uid: str) -> int:
    from bluesky_prefect.tiled_api import ArrayColumns, read_stream, stream_nodes

    try:
        run = runs.find(uid)
    except RunNotFound:
        return 0
    return sum(read_stream(node, ArrayColumns(None, 0)).rows for node in stream_nodes(run))


def test_plans_over_rest_become_runs_in_tiled_and_completed_flow_runs(stack, server, runs):
    plans: list[tuple[str, dict[str, Any]]] = [
        ("count", {"detectors": ["det"], "num": 2}),
        ("scan", {"detectors": ["det"], "motor": "stage.x", "start": 0, "stop": 1, "num": 3}),
    ]
    for (plan, parameters), points in zip(plans, (2, 3), strict=True):
        task = server.begin(plan, **parameters)
        outcome = server.outcome(task)
        assert outcome["outcome"] == "success", outcome
        uid = outcome["result"]
        started = {"data-validation/local", "my-workflow/local"}
        assert _flow_runs(stack, uid, started) == dict.fromkeys(started, "COMPLETED")
        run = runs.find(uid)
        assert run.metadata["start"]["blueapi_task_id"] == task
        assert run.metadata["stop"]["exit_status"] == "success"
        assert run.metadata["stop"]["num_events"] == {"primary": points}
        assert _rows(runs, uid) == points


@pytest.mark.parametrize(
    ("state", "reason", "exit_status", "started"),
    [
        ("ABORTING", {"reason": "the beam was dumped"}, "abort", {"data-validation/local"}),
        ("STOPPING", {}, "success", {"data-validation/local", "my-workflow/local"}),
    ],
)
def test_a_plan_that_somebody_ends_has_its_exit_status_and_starts_what_wants_such_a_run(
    state, reason, exit_status, started, stack, server, runs
):
    before = set(_open_runs(stack))
    task = server.begin("count", detectors=["det"], num=10_000, delay=0.1)
    [uid] = wait_until(lambda: set(_open_runs(stack)) - before)
    wait_until(lambda: _rows(runs, uid) >= 3)
    server.end(state, **reason)
    assert server.outcome(task)["outcome"] == "error"  # as blueapi calls a plan that was interrupted

    assert _flow_runs(stack, uid, started) == dict.fromkeys(started, "COMPLETED")
    stop = runs.find(uid).metadata["stop"]
    assert stop["exit_status"] == exit_status
    assert _rows(runs, uid) == stop["num_events"]["primary"]


def _open_runs(stack: StackInfo) -> list[str]:
    return [path.stem for path in (stack.state_directory / "journals").glob("*.journal")]
