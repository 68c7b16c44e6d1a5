"""The local stack as real processes: what it promises while it runs, and through everybody's mistakes."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from bluesky_prefect import Outbox
from bluesky_prefect.core import Settings, StackError, Submission
from bluesky_prefect.stack import LocalStack
from bluesky_prefect.stack._drain import drain
from bluesky_prefect.stack._process import MARK
from bluesky_prefect.stack._worker import settings_environment
from tests.services.prefect_process import ask, post, user_of, wait_until

PARTS = {"tiled", "prefect", "worker", "courier"}
_TILED = "bluesky_prefect.stack.workarounds._tiled_app:app_factory"
FORK_SERVER = "bluesky_prefect.worker.forkserver"


def family(processes):
    """Return the stack's processes and everything that descends from them."""
    marks = {one.mark for one in processes.values()}
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) in marks and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def command(*arguments, **environment):
    return [sys.executable, "-c", "from bluesky_prefect.cli import main; main()", *arguments]


def start_waiting(info):
    """Start a flow run on a run that never comes; return its address once it waits for it."""
    name = f"{info.prefect_api_url}/deployments/name/my-workflow/local"
    deployment = httpx.get(name, headers=info.prefect_headers, timeout=30).raise_for_status().json()["id"]
    made = post(
        info.prefect_api_url,
        f"/deployments/{deployment}/create_flow_run",
        user=user_of(info),
        parameters={"ref": "00000000-0000-4000-8000-000000000000"},
        state={"type": "SCHEDULED"},
    )
    flow_run = f"{info.prefect_api_url}/flow_runs/{made['id']}"
    wait_until(lambda: state_type(info, flow_run) == "RUNNING")
    return flow_run


def state_type(info, flow_run):
    return ask(info, "GET", flow_run.removeprefix(info.prefect_api_url)).json()["state_type"]


def ports(info):
    return {httpx.URL(url).port for url in (info.tiled_uri, info.prefect_api_url)}


# The session's stack, which these tests only look at.


def test_a_running_stack_is_found_by_anybody_who_knows_its_directory(stack, stack_settings):
    assert LocalStack(stack_settings).find() == stack
    code = (
        "import sys; from bluesky_prefect.core import Settings; from bluesky_prefect.stack import LocalStack; "
        "print(LocalStack(Settings(state_directory=sys.argv[1])).find().prefect_api_url)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(stack.state_directory)], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == stack.prefect_api_url


def test_up_on_a_running_stack_finds_it_and_says_so(stack, stack_settings):
    before = LocalStack(stack_settings).processes()
    said = []
    assert LocalStack(stack_settings).up(said.append) == stack
    assert said == ["The stack is already running."]
    assert LocalStack(stack_settings).processes() == before


def test_status_shows_each_part(stack, stack_settings):
    status = LocalStack(stack_settings).status()
    assert status.all_up
    assert {part.name for part in status.parts} == PARTS
    assert {part.url for part in status.parts} == {stack.tiled_uri, stack.prefect_ui_url, None}
    assert status.flow_runs_problem is None


def test_tiled_lets_nobody_in_without_the_key(stack):
    assert httpx.get(f"{stack.tiled_uri}/api/v1/metadata/raw", timeout=30).status_code == 401
    wrong = {"Authorization": "Apikey wrong"}
    assert httpx.get(f"{stack.tiled_uri}/api/v1/metadata/raw", headers=wrong, timeout=30).status_code == 401


def test_tiled_has_the_catalog_of_runs_and_the_container_of_results(stack):
    headers = {"Authorization": f"Apikey {stack.tiled_api_key.get_secret_value()}"}
    raw, _ = (
        httpx.get(f"{stack.tiled_uri}/api/v1/metadata/{name}", headers=headers, timeout=30).raise_for_status().json()
        for name in ("raw", "processed")
    )
    assert raw["data"]["attributes"]["specs"] == [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}]


def test_the_deployment_loads_the_installed_package_and_pulls_nothing(stack):
    found = ask(stack, "GET", "/deployments/name/my-workflow/local").raise_for_status().json()
    assert found["entrypoint"] == "bluesky_prefect.flows.my_workflow"
    assert not found["pull_steps"]
    assert found["work_pool_name"] == "bluesky-local"
    assert "ref" in found["parameter_openapi_schema"]["properties"]
    other = ask(stack, "GET", "/deployments/name/data-validation/local").raise_for_status().json()
    assert other["entrypoint"] == "bluesky_prefect.flows.data_validation"


def test_the_prefect_ui_is_there_and_talks_to_this_server(stack):
    assert "<html" in httpx.get(stack.prefect_ui_url, follow_redirects=True, timeout=30).raise_for_status().text
    settings = httpx.get(f"{stack.prefect_ui_url}/ui-settings", timeout=30).raise_for_status().json()
    assert settings["api_url"] == stack.prefect_api_url


def test_the_user_s_own_prefect_is_left_alone(stack):
    assert list(Path(os.environ["PREFECT_HOME"]).glob("prefect.db*")) == []
    assert not (Path(os.environ["PREFECT_HOME"]) / "profiles.toml").exists()


def test_a_flow_run_that_its_worker_marks_as_crashed_when_it_stops_is_told_of(stack):
    pool = "drained"
    make = partial(post, stack.prefect_api_url, user=user_of(stack))

    def set_state(kind):
        make(f"/flow_runs/{flow_run['id']}/set_state", state={"type": kind}, force=True)

    make("/work_pools/", name=pool, type="process")
    flow = make("/flows/", name="drained")["id"]
    deployment = make("/deployments/", name="local", flow_id=flow, work_pool_name=pool)["id"]
    flow_run = make(f"/deployments/{deployment}/create_flow_run", state={"type": "SCHEDULED"})
    set_state("RUNNING")
    said = []
    killed = {"stop_worker": lambda: set_state("CRASHED"), "timeout_s": 0.1}
    drain(stack, pool, report=said.append, **killed)
    assert [line for line in said if flow_run["name"] in line and "was stopped" in line]


def test_many_who_change_flow_runs_at_once_are_all_served(stack):
    with httpx.Client(base_url=stack.prefect_api_url, headers=stack.prefect_headers, timeout=60) as client:
        flow = client.post("/flows/", json={"name": "many"}).raise_for_status().json()["id"]
        answers = list(ThreadPoolExecutor(8).map(lambda _: list(_flow_run(client, flow)), range(40)))
    # Prefect on SQLite as it comes answers 503 to some of these, "database is locked".
    assert {status for statuses in answers for status in statuses} <= {200, 201}


def _flow_run(client, flow):
    """Take a flow run with two task runs from beginning to end; return what was answered."""
    made = client.post("/flow_runs/", json={"flow_id": flow, "state": {"type": "PENDING"}})
    flow_run = made.json()["id"]
    task = {"flow_run_id": flow_run, "task_key": "task", "state": {"type": "PENDING"}}
    yield made.status_code
    for number in range(2):
        yield client.post("/task_runs/", json={**task, "dynamic_key": str(number)}).status_code
    for state in ("RUNNING", "COMPLETED"):
        yield client.post(f"/flow_runs/{flow_run}/set_state", json={"state": {"type": state}}).status_code


def test_status_says_how_long_a_flow_run_under_way_has_been_running(stack, stack_settings):
    make = partial(post, stack.prefect_api_url, user=user_of(stack))
    flow = make("/flows/", name="under-way")["id"]
    made = make("/flow_runs/", flow_id=flow, state={"type": "RUNNING"}, parameters={"ref": "-1"})
    shown = {run.name: run for run in LocalStack(stack_settings).status(flow_runs=100).flow_runs}
    assert shown[made["name"]].run_s > 0
    make(f"/flow_runs/{made['id']}/set_state", state={"type": "COMPLETED"}, force=True)


# A stack of these tests' own, which gets hurt.


@pytest.fixture(scope="module")
def hurt_settings(tmp_path_factory, outside_services):
    """A stack that two sessions start at once, and that both of them leave behind."""
    directory = tmp_path_factory.mktemp("hurt") / "state"
    # Long enough that a flow run on a run that does not exist is still waiting for it when it is looked for.
    values = {"stop_timeout_s": 600, **outside_services}
    settings = Settings(state_directory=directory, tiled_port=0, prefect_port=0, **values)
    environment = {**os.environ, **{f"BLUESKY_PREFECT_{name.upper()}": str(value) for name, value in values.items()}}
    up = command("up", "--state-directory", str(directory), "--tiled-port", "0", "--prefect-port", "0")
    try:
        sessions = [
            subprocess.Popen(up, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        outputs = [session.communicate() for session in sessions]
        assert [session.returncode for session in sessions] == [0, 0], outputs
        yield settings, outputs
    finally:
        LocalStack(settings).down(print, flow_runs_timeout_s=0)


@pytest.fixture
def hurt(hurt_settings):
    """That stack, repaired by the tests that hurt it."""
    settings, _ = hurt_settings
    local = LocalStack(settings)
    local.up(print)
    return local


def test_two_sessions_that_start_a_stack_at_once_start_one(hurt_settings):
    settings, outputs = hurt_settings
    errors = sorted((err for _, err in outputs), key=len)
    assert errors[0] == "The stack is already running.\n"
    assert "Tiled server: ready (" in errors[1]
    addresses = {line.partition("#")[0] for out, _ in outputs for line in out.splitlines() if "Prefect UI" in line}
    assert len(addresses) == 1
    assert len([one for one in family(LocalStack(settings).processes()) if _TILED in one.cmdline()]) == 1


def test_a_stack_outlives_the_sessions_that_started_it(hurt_settings):
    settings, _ = hurt_settings
    local = LocalStack(settings)
    assert local.processes().keys() == PARTS
    assert all(os.getsid(one.pid) == one.pid for one in local.processes().values())
    assert local.status().all_up


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_that_was_killed_is_started_again_and_only_it(hurt, part):
    before = hurt.processes()
    info = hurt.find()
    os.kill(before[part].pid, signal.SIGKILL)
    wait_until(lambda: part not in hurt.processes())
    # The lock of a killed process is free a moment after it.
    wait_until(lambda: {one.name for one in hurt.status().parts if not one.up} == {part})
    assert (hurt.find() is None) == (part in {"tiled", "prefect"})
    said = []
    assert hurt.up(said.append) == info
    after = hurt.processes()
    assert {name for name in PARTS if after[name].pid != before[name].pid} == {part}
    assert any("had ended or never finished starting" in line for line in said)
    assert sum("already running" in line for line in said) == 3
    assert hurt.status().all_up


def test_a_worker_that_holds_an_old_key_of_tiled_is_started_anew(hurt):
    old = hurt.find()
    hurt.paths.tiled_api_key.unlink()
    os.kill(hurt.processes()["tiled"].pid, signal.SIGKILL)
    wait_until(lambda: "tiled" not in hurt.processes())
    new = hurt.up(print)
    assert new.tiled_api_key != old.tiled_api_key
    assert hurt.processes()["worker"].variable("TILED_API_KEY") == new.tiled_api_key.get_secret_value()


def test_up_that_was_killed_on_its_way_is_gone_on_with(hurt):
    info = hurt.find()
    hurt.down(print)
    directory = str(hurt.paths.root)
    up = subprocess.Popen(
        command("up", "--state-directory", directory, "--tiled-port", "0", "--prefect-port", "0"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: hurt.processes().keys() == PARTS)
    up.kill()
    up.wait()
    left = hurt.processes()
    assert hurt.find() is None
    assert hurt.up(print) == info
    assert not [one for one in left.values() if one.is_alive()]
    assert hurt.status().all_up


def test_what_waits_for_the_stack_follows_it_to_another_port(hurt, hurt_settings):
    former = hurt.find().prefect_api_url
    hurt.down(print, flow_runs_timeout_s=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = []
    with closing(Outbox(hurt.paths.root / "outbox.sqlite")) as outbox:
        for address in (former, "http://elsewhere.example/api"):
            outbox.put(Submission(address, "a/b", "a/b", "u"), api_url=address)
        now = with_other(hurt_settings, prefect_port=port).up(said.append).prefect_api_url
        assert outbox.unsent_by_address() == {now: 1, "http://elsewhere.example/api": 1}
    assert now != former
    assert f"Outbox: 1 submission for {former} will be sent to {now}" in said


@pytest.mark.parametrize("worker_type", ["process", "warm-process"])
def test_a_stack_started_in_a_script_s_background_stops_its_worker(hurt, hurt_settings, worker_type):
    os.kill(hurt.processes()["worker"].pid, signal.SIGKILL)
    wait_until(lambda: "worker" not in hurt.processes())
    local = with_other(hurt_settings, worker_type=worker_type)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for what it starts with '&'
    try:
        local.up(print)
    finally:
        signal.signal(signal.SIGINT, before)
    worker = psutil.Process(local.processes()["worker"].pid)
    worker.terminate()
    assert psutil.wait_procs([worker], timeout=20)[1] == []


def with_other(hurt_settings, **values):
    """Return that stack with other settings."""
    settings, _ = hurt_settings
    return LocalStack(Settings(**{**settings.model_dump(exclude_unset=True), **values}))


def test_prefect_s_own_worker_is_one_option_away_and_stays_until_told(hurt, hurt_settings):
    info = hurt.find()
    up = command("up", "--state-directory", str(hurt.paths.root), "--worker-type", "process")
    environment = {**os.environ, **settings_environment(hurt_settings[0])}
    asked = subprocess.run(up, env=environment, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    start_waiting(info)
    command_lines = [process.cmdline() for process in family(hurt.processes())]
    assert any("prefect.engine" in line for line in command_lines)
    assert not any(FORK_SERVER in line for line in command_lines)
    worker = hurt.processes()["worker"]
    hurt.up(print)
    assert hurt.processes()["worker"] == worker
    with_other(hurt_settings, worker_type="warm-process").up(print)
    assert any(FORK_SERVER in process.cmdline() for process in family(hurt.processes()))


def test_up_says_which_settings_a_running_stack_does_not_have(hurt, hurt_settings):
    said = []
    with_other(hurt_settings, timezone="Europe/Paris", tell_of_started_flows=False).up(said.append)
    change = "To change it: bluesky-prefect down, then up"
    assert said == [
        f"Prefect worker, Courier: do not have the present BLUESKY_PREFECT_TIMEZONE. {change}",
        "The stack is already running.",
    ]
    said.clear()
    with_other(hurt_settings, weather=True).up(said.append)  # the default
    assert said == ["The stack is already running."]


def test_down_stops_what_up_started_and_marks_what_did_not_finish(hurt):
    info = hurt.find()
    flow_run = start_waiting(info)
    ours = family(hurt.processes())
    [server] = [process for process in ours if FORK_SERVER in process.cmdline() and process.children()]
    assert set(server.children()) <= set(ours)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        said = []
        assert hurt.down(said.append, flow_runs_timeout_s=0.5)
        assert any("was stopped" in line for line in said)
        assert not [process for process in ours if process.is_running() and process.status() != "zombie"]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert hurt.find() is None
    assert hurt.down(said.append) is False
    assert said[-1] == "No stack is running."
    assert hurt.up(print) == info
    assert state_type(info, flow_run) == "CRASHED"


@pytest.mark.parametrize("part", ["tiled", "prefect"])
def test_a_busy_port_is_an_error_and_nothing_is_started(own_stack, part):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        local = own_stack(**{f"{part}_port": port})
        with pytest.raises(StackError, match=rf"Port {port}.*process {os.getpid()}.*--{part}-port"):
            local.up(print)
        assert local.processes() == {}


def test_a_part_that_dies_while_starting_is_named_and_stops_the_others(own_stack):
    local = own_stack()
    # A catalog that is not a database.
    (local.paths.tiled / "catalog.db").write_text("not a database\n" * 100)
    with pytest.raises(StackError) as caught:
        local.up(print)
    message = str(caught.value)
    assert message.startswith("The Tiled server ended while it was starting.")
    assert str(local.paths.logs / "tiled.log") in message
    assert "file is not a database" in message
    assert local.processes() == {}
    assert local.find() is None
