"""The profile under a queue server: what that asks of startup code, and runs taken by a real RE Manager."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from bluesky_prefect.core import RunNotFound, Settings
from bluesky_prefect.session._ipython import startup_files
from bluesky_prefect.stack import StackInfo
from tests.services.prefect_process import ask, wait_until
from tests.services.queue_server import QueueServer

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api import Catalog

_STARTUP = startup_files()[0].parent
_PLANS = {
    "close_in_on_peak",
    "count",
    "failing_scan",
    "find_peak",
    "grid_scan",
    "list_scan",
    "rel_scan",
    "scan",
    "two_runs_interleaved",
}
_FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
# Plans wait for flow runs here, and the tests for more of them; a busy machine takes its time.
pytestmark = pytest.mark.timeout(600)
# It lasts until somebody ends it.
_LONG_COUNT: dict[str, Any] = {"num": 10_000, "delay": 0.1}


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Plans and devices as the queue server sees them, with no service there."""
    directory = tmp_path_factory.mktemp("queueserver")
    environment = {
        **os.environ,
        "BLUESKY_PREFECT_STATE_DIRECTORY": str(directory / "state"),
        "PREFECT_API_URL": "http://127.0.0.1:1/api",
    }
    command = [
        Path(sys.executable).with_name("qserver-list-plans-devices"),
        f"--startup-dir={_STARTUP}",
        f"--file-dir={directory}",
    ]
    subprocess.run(command, env=environment, timeout=120, check=True)
    return yaml.safe_load((directory / "existing_plans_and_devices.yaml").read_text())


def test_the_queue_server_lists_the_plans_and_nothing_else(listed):
    assert set(listed["existing_plans"]) == _PLANS


def test_the_queue_server_lists_the_devices_and_nothing_else(listed):
    devices = {name: device["classname"] for name, device in listed["existing_devices"].items()}
    assert devices == {
        "motor": "SynAxis",
        "motor1": "SynAxis",
        "motor2": "SynAxis",
        "det": "SynGauss",
        "det1": "SynGauss",
        "det2": "SynGauss",
        "noisy_det": "SynGauss",
        "image_det": "ImageDetector",
    }


def test_the_queue_server_knows_what_the_plans_take(listed):
    parameters = {one["name"]: one for one in listed["existing_plans"]["find_peak"]["parameters"]}

    assert parameters["detector"]["annotation"]["type"] == "__READABLE__"
    assert parameters["motor"]["annotation"]["type"] == "__MOVABLE__"
    assert parameters["num"]["default"] == "11"


@pytest.fixture(scope="module")
def start_server(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., QueueServer]]:
    """Start RE Managers that find the stack by its state directory; all are closed at the end of the module."""
    started: list[QueueServer] = []

    def start(*options: str, startup: Path = _STARTUP) -> QueueServer:
        environment = {"BLUESKY_PREFECT_STATE_DIRECTORY": str(stack.state_directory)}
        started.append(QueueServer(startup, tmp_path_factory.mktemp("re-manager"), environment, *options))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="module")
def shared_server(start_server: Callable[..., QueueServer]) -> QueueServer:
    """One RE Manager for all tests that need no options of their own."""
    return start_server()


@pytest.fixture
def server(shared_server: QueueServer) -> QueueServer:
    """The shared RE Manager, idle, with an environment and an empty queue."""
    shared_server.open_environment()
    return shared_server


@pytest.fixture
def runs(stack: StackInfo) -> "Iterator[Catalog]":
    from bluesky_prefect.tiled_api import Catalog

    with Catalog.connect(Settings(tiled_uri=stack.tiled_uri, tiled_api_key=stack.tiled_api_key)) as catalog:
        yield catalog


def _flow_runs(stack: StackInfo, uid: str) -> list[str]:
    """Return the states of the flow runs that a run started."""
    body = {"flow_runs": {"tags": {"all_": [f"uid:{uid}"]}}}
    return [one["state"]["type"] for one in ask(stack, "POST", "/flow_runs/filter", json=body).json()]


def _ended_flow_runs(stack: StackInfo, uid: str, count: int = 1) -> list[str]:
    """Return the states of a run's flow runs once there are so many, and all have ended."""

    def ended() -> list[str]:
        states = _flow_runs(stack, uid)
        return states if len(states) >= count and set(states) <= _FINAL else []

    return wait_until(ended, timeout_s=150)


def _rows(runs: "Catalog", uid: str) -> int:
    """Return how many events Tiled has of a run; none before it has the run."""
    from bluesky_prefect.tiled_api import ArrayColumns, read_stream, stream_nodes

    try:
        run = runs.find(uid)
    except RunNotFound:
        return 0
    return sum(read_stream(node, ArrayColumns(None, 0)).rows for node in stream_nodes(run))


def _printed_rows(server: QueueServer, uid: str) -> int:
    """Return how many events the live table of a run shows."""
    _, _, table = server.log.partition(f"Persistent Unique Scan ID: '{uid}'")
    return len(re.findall(r"^\|\s+\d+ \|", table.partition("Persistent Unique Scan ID")[0], re.MULTILINE))


def test_people_who_take_data_may_queue_every_plan(server):
    assert set(server.do("plans_allowed", user_group="primary")["plans_allowed"]) == _PLANS
    assert server.submit("count", ["det"], num=1)["success"]


def test_people_who_look_on_may_queue_no_plan_and_call_nothing(server):
    assert server.do("plans_allowed", user_group="observer")["plans_allowed"] == {}
    assert not server.submit("count", ["det"], group="observer")["success"]
    assert "not allowed" in _call(server, "fun_fact", "observer")["msg"]


def test_people_who_take_data_may_call_flows_and_no_other_function(server):
    assert "not allowed" in _call(server, "start_session", "primary")["msg"]
    task = _call(server, "fun_fact", "primary")["task_uid"]
    wait_until(lambda: server.do("task_result", task_uid=task)["status"] == "completed")
    result = server.do("task_result", task_uid=task)["result"]
    assert result["success"], result["traceback"]


def _call(server: QueueServer, function: str, group: str) -> dict[str, Any]:
    item = {"item_type": "function", "name": function}
    return server.ask("function_execute", item=item, user="tester", user_group=group)


def test_runs_of_the_queue_become_completed_flow_runs(stack, server, runs):
    results = server.run(
        ("count", ["det"]),
        ("scan", ["image_det"], "motor", -1, 1, 5),
        ("close_in_on_peak", "det2", "motor2", -10, 10),
    )

    assert [result["exit_status"] for result in results] == ["completed"] * 3
    [counted], [scanned], searched = (result["run_uids"] for result in results)
    assert len(searched) >= 2
    for uid in (counted, scanned):
        assert _ended_flow_runs(stack, uid) == ["COMPLETED"]
    for uid in searched:
        assert _ended_flow_runs(stack, uid, 2) == ["COMPLETED"] * 2
    for uid in (counted, scanned, *searched):
        assert runs.find(uid).metadata["stop"]["exit_status"] == "success"
    assert _frames(runs, scanned) == 5


def _frames(runs: "Catalog", uid: str) -> int:
    from bluesky_prefect.tiled_api import external_arrays

    [(array, _)] = external_arrays(runs.find(uid))
    return array.shape[0]


def test_plans_that_somebody_ends_have_their_exit_status(stack, server, runs):
    ends = {"re_stop": ("stopped", "success"), "re_abort": ("aborted", "abort"), "re_halt": ("halted", "abort")}
    uids = {end: _ended_run(server, runs, end) for end in ends}

    assert [result["exit_status"] for result in server.results()[-3:]] == [in_queue for in_queue, _ in ends.values()]
    for end, uid in uids.items():
        # All runs start my-workflow, unless a workflow's `when=` looks at the exit status.
        assert _ended_flow_runs(stack, uid) == ["COMPLETED"]
        stop = runs.find(uid).metadata["stop"]
        assert (end, stop["exit_status"]) == (end, ends[end][1])
        assert _rows(runs, uid) == stop["num_events"]["primary"] == _printed_rows(server, uid)


def _ended_run(server: QueueServer, runs: "Catalog", end: str) -> str:
    """Pause a run that has some events, then end it by a request; return its uid."""
    uid = server.begin("count", ["image_det"], **_LONG_COUNT)
    wait_until(lambda: _rows(runs, uid) >= 3)
    server.do("re_pause", option="immediate")
    server.wait_for("paused")
    server.do(end)
    server.wait_for("idle")
    # An aborted or halted plan is back in the queue.
    server.do("queue_clear")
    return uid


def test_a_destroyed_environment_leaves_its_run_without_a_stop(stack, server, runs):
    uid = server.begin("count", ["image_det"], **_LONG_COUNT)
    wait_until(lambda: _rows(runs, uid) >= 3)
    server.do("environment_destroy")
    wait_until(lambda: not server.ask("status")["worker_environment_exists"])
    server.wait_for("idle")
    journal = stack.state_directory / "journals" / "delivered" / f"{uid}.journal"
    wait_until(journal.exists)

    # The table is printed before the event is recorded, and the process may have been killed in between.
    assert _printed_rows(server, uid) - 1 <= _rows(runs, uid) == _recorded_events(journal)
    assert runs.find(uid).metadata.get("stop") is None
    assert server.results()[-1]["exit_status"] == "failed"

    server.open_environment()
    [result] = server.run(("count", ["det"]))
    assert result["exit_status"] == "completed"
    assert _ended_flow_runs(stack, result["run_uids"][0]) == ["COMPLETED"]
    assert result["scan_ids"] == [runs.find(uid).metadata["start"]["scan_id"] + 1]
    # What came later has become flow runs; the run without an end has not.
    assert _flow_runs(stack, uid) == []


def _recorded_events(journal: Path) -> int:
    from bluesky_prefect.journal import JournalReader

    reader = JournalReader(journal)
    try:
        return sum(name == "event" for name, _ in reader.documents())
    finally:
        reader.close()


def test_a_queue_server_is_not_greeted_as_somebody_at_a_prompt(stack, start_server, tmp_path):
    # IPython takes the directory above for its profile, and puts its history there.
    startup = shutil.copytree(_STARTUP, tmp_path / "profile_collection" / "startup")
    server = start_server("--use-ipython-kernel=ON", startup=startup)
    server.open_environment()
    [result] = server.run(("count", ["det"]))

    assert result["exit_status"] == "completed"
    assert _ended_flow_runs(stack, result["run_uids"][0]) == ["COMPLETED"]
    assert f"Tiled: {stack.tiled_uri}" in server.log
    assert "to begin: RE(" not in server.log


def test_a_queue_server_leaves_the_startup_directory_as_it_was(server):
    assert server.ask("status")["worker_environment_exists"]
    assert {path.suffix for path in _STARTUP.iterdir() if path.is_file()} == {".py", ".yaml"}
    assert [path.name for path in _STARTUP.glob("*.yaml")] == ["user_group_permissions.yaml"]
