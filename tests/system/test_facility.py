"""A facility's servers with the files in deploy/, all with passwords: a kill costs no run, and makes none twice."""

import configparser
import functools
import itertools
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

from bluesky_prefect import Settings
from tests.services.deployed_tiled import DeployedTiled
from tests.services.facility import DEPLOY, Facility, variables
from tests.services.forked import run_command
from tests.services.listeners import Listener
from tests.services.password_postgres import PasswordPostgres
from tests.services.prefect_process import wait_until
from tests.services.second_looks import look_again
from tests.services.worker_process import WorkerProcess
from tests.system.secret_search import found_in
from tests.system.test_metrics import CourierProcess
from tests.system.test_recording import Session

FLOW = """
from prefect import flow


@flow
def trivial():
    pass
"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    owners = {"prefect": "prefect", "tiled_catalog": "tiled", "tiled_tables": "tiled"}
    server = PasswordPostgres(tmp_path_factory.mktemp("postgres"), owners)
    yield server
    server.close()


@pytest.fixture(scope="module")
def facility(postgres, tmp_path_factory):
    database = f"postgresql+asyncpg://prefect@{postgres.address}/prefect"
    facility = Facility(tmp_path_factory.mktemp("facility"), database, passfile=postgres.passfile)
    yield facility
    facility.close()


@pytest.fixture(scope="module")
def tiled(facility, postgres, tmp_path_factory):
    tiled = DeployedTiled(tmp_path_factory.mktemp("tiled"), postgres, facility.redis_url(1))
    yield tiled
    tiled.close()


@pytest.fixture(scope="module")
def environment(facility, tiled, tmp_path_factory):
    """The variables of a beamline's machines, and where all that they write goes."""
    folder = tmp_path_factory.mktemp("beamline")
    values = {
        **variables(DEPLOY / "prefect" / "clients.env"),
        **facility.environment,
        **tiled.environment,
        "BLUESKY_PREFECT_STATE_DIRECTORY": str(folder / "state"),
        "BLUESKY_PREFECT_OUTPUT_DIRECTORY": str(folder / "exports"),
        "BLUESKY_PREFECT_METRICS_PORT": "0",
        "BLUESKY_PREFECT_WEATHER": "false",
        "BLUESKY_PREFECT_CAT_FACT": "false",
    }
    workflows = folder / "workflows.py"
    workflows.write_text('from bluesky_prefect import Workflow\n\nworkflows = [Workflow("my-workflow/tst")]\n')
    return {**values, "BLUESKY_PREFECT_WORKFLOWS": f"{workflows}:workflows"}


def run(environment, *arguments):
    return run_command(*arguments, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def worker(facility, tmp_path_factory):
    worker = WorkerProcess(facility.api_url, tmp_path_factory.mktemp("worker"), "facility", user=facility.user)
    worker.make_pool()
    worker.preload(checked=False)
    worker.start()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def workflow(worker, tmp_path_factory):
    """Name of a deployment of a flow that does nothing."""
    folder = tmp_path_factory.mktemp("flows")
    (folder / "flows.py").write_text(FLOW)
    deployment = worker.ask("GET", f"/deployments/{worker.deploy('flows.py:trivial', folder)}")
    return f"trivial/{deployment['name']}"


def states(worker, uids):
    """Return how many flow runs of these runs are in which state, by run."""
    found = worker.ask("POST", "/flow_runs/filter", flow_runs={"tags": {"any_": [f"uid:{uid}" for uid in uids]}})
    return Counter((tag, one["state_type"]) for one in found for tag in one["tags"] if tag.startswith("uid:"))


def completed_once(uids):
    return Counter((f"uid:{uid}", "COMPLETED") for uid in uids)


def acquire(facility, state, workflow, number, every_s):
    command = [sys.executable, "-m", "tests.services.acquiring", workflow, str(number), str(every_s)]
    environment = {**os.environ, **facility.environment, "BLUESKY_PREFECT_STATE_DIRECTORY": str(state)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_runs_become_flow_runs_while_either_server_is_killed_and_started_again(facility, worker, workflow, tmp_path):
    with acquire(facility, tmp_path, workflow, 40, 0.5) as acquiring:
        lines = [acquiring.stdout.readline() for _ in range(8)]
        for number in (1, 2):
            facility.kill(f"server_{number}")
            lines += [acquiring.stdout.readline() for _ in range(6)]
            facility.start_server(number)
        lines += acquiring.stdout.readlines()
    assert acquiring.returncode == 0
    uids = [line.split()[0] for line in lines]
    assert len(uids) == 40
    wait_until(lambda: states(worker, uids) == completed_once(uids), 120)
    assert worker.process.poll() is None


def test_a_worker_s_web_socket_survives_the_loss_of_either_server(facility, tmp_path):
    (tmp_path / "flows.py").write_text(FLOW)
    worker = WorkerProcess(facility.api_url, tmp_path, "told", user=facility.user)
    try:
        worker.make_pool()
        worker.preload(checked=False)
        # It hears of flow runs over its web socket, or not at all.
        worker.start(PREFECT_WORKER_QUERY_SECONDS="3600")
        deployment = worker.deploy("flows.py:trivial", tmp_path)
        for number in (1, 2):
            facility.kill(f"server_{number}")
            # The first may be found when the socket is there again, the second is told of over it.
            for _ in range(2):
                assert worker.wait(worker.submit(deployment))["state_type"] == "COMPLETED"
            facility.start_server(number)
        assert worker.process.poll() is None
    finally:
        worker.close()


@pytest.fixture(scope="module")
def beamline(facility, environment, tmp_path_factory):
    """A beamline with its worker and its courier; a scan that was taken there, and its flow run."""
    deployed = run(environment, "deploy", "--beamline", "tst")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    folder = Path(environment["BLUESKY_PREFECT_STATE_DIRECTORY"])
    folder.mkdir()
    worker = WorkerProcess(facility.api_url, folder.parent, "bluesky-tst", user=facility.user)
    courier = session = None
    try:
        worker.start(**environment)
        courier = CourierProcess(environment, folder)
        courier.port()
        session = Session(environment)
        uid = session.do("scan")["uid"]
        wait_until(lambda: states(worker, [uid]) == completed_once([uid]), 120)
        yield {"worker": worker, "courier": courier, "session": session, "uid": uid}
    finally:
        if session:
            session.kill()
        if courier:
            courier.end()
        worker.close()


def test_with_a_password_on_every_server_a_scan_is_processed_and_seen_everywhere(beamline, environment):
    uid = beamline["uid"]
    found = beamline["session"].do("last")
    assert (found["exit_status"], found["rows"]) == ("success", 11)
    exported = [path for path in Path(environment["BLUESKY_PREFECT_OUTPUT_DIRECTORY"]).rglob("*") if path.is_file()]
    assert {path.suffix for path in exported} >= {".csv", ".png", ".txt"}
    reconciled = run(environment, "reconcile", "--since", "1h")
    assert reconciled.returncode == 0, reconciled.stdout + reconciled.stderr
    assert "all processed" in reconciled.stdout
    assert uid[:8] in run(environment, "flows", "--json").stdout
    checked = look_again(lambda: run(environment, "check", "--json").stdout)
    assert '"problem"' not in checked, checked
    for server in ("prefect", "tiled"):
        reachable = re.compile(rf"^bluesky_prefect_{server}_reachable(\{{.*\}})? 1.0$", re.MULTILINE)
        wait_until(lambda reachable=reachable: reachable.search(beamline["courier"].get("/metrics")[1]))


def test_a_listener_finds_the_run_in_tiled_and_starts_it_no_second_time(beamline, environment, tmp_path):
    state = tmp_path / "state"
    listener = Listener(
        state, "tiled", "--since", "1h", **{**environment, "BLUESKY_PREFECT_STATE_DIRECTORY": str(state)}
    )
    try:
        listener.wait_until(lambda: [entry.state for entry in listener.entries()] == ["sent"])
        assert listener.uids() == [beamline["uid"]]
    finally:
        assert listener.close() == 0
    assert states(beamline["worker"], [beamline["uid"]]) == completed_once([beamline["uid"]])


@pytest.mark.parametrize(
    ("variable", "arguments"),
    [
        ("PREFECT_API_AUTH_STRING", ["reconcile"]),
        ("PREFECT_API_AUTH_STRING", ["flows"]),
        ("PREFECT_API_AUTH_STRING", ["check"]),
        ("PREFECT_API_AUTH_STRING", ["deploy", "--beamline", "tst"]),
        ("TILED_API_KEY", ["reconcile"]),
        ("TILED_API_KEY", ["check"]),
    ],
)
def test_a_wrong_password_is_named_with_its_setting_and_not_repeated(beamline, environment, variable, arguments):
    wrong = "prefect:wr0ng-password" if variable.startswith("PREFECT") else "e0" * 32
    done = run({**environment, variable: wrong}, *arguments)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert variable in said
    assert "refuse" in said or "401" in said
    assert "Traceback" not in said
    assert wrong.rpartition(":")[2] not in said


def test_a_worker_with_a_wrong_password_says_so(facility, beamline, tmp_path):
    worker = WorkerProcess(facility.api_url, tmp_path, "bluesky-tst", user="prefect:wr0ng-password")
    worker.start(ready=False)
    try:
        wait_until(lambda: "401" in worker.log.read_text())
        assert "wr0ng-password" not in worker.log.read_text()
    finally:
        worker.stop()


def test_no_secret_is_in_logs_databases_command_lines_or_exported_files(
    facility, tiled, postgres, worker, beamline, environment, tmp_path
):
    secrets = [
        facility.user,
        facility.user.partition(":")[2],
        facility.redis_password,
        tiled.key,
        *postgres.passwords.values(),
    ]
    for database in ("prefect", "tiled_catalog", "tiled_tables"):
        postgres.dump(database, tmp_path / database)
    uid = beamline["uid"].encode()
    assert uid in (tmp_path / "prefect").read_bytes()
    assert uid in (tmp_path / "tiled_catalog").read_bytes()
    assert b"INSERT INTO" in (tmp_path / "tiled_tables").read_bytes()
    beamline_folder = Path(environment["BLUESKY_PREFECT_STATE_DIRECTORY"]).parent
    folders = [tmp_path, facility.folder, tiled.log.parent, worker.log.parent, beamline_folder]
    assert [found for folder in folders for found in found_in(folder, *secrets)] == []
    lines = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    assert any("prefect server start" in line for line in lines)
    assert [line for line in lines if any(secret in line for secret in secrets)] == []
    assert stat.S_IMODE(postgres.passfile.stat().st_mode) == 0o600


def commands_in(path):
    """Yield the command lines of these packages that a file of deploy/ holds, as lists of words."""
    if path.suffix == ".service":
        parsed = configparser.ConfigParser(strict=False, interpolation=None)
        parsed.read(path)
        yield parsed["Service"]["ExecStart"].split()
    elif path.suffix == ".yaml" and path.parent.name != "prometheus":
        for document in yaml.safe_load_all(path.read_text()):
            pods = document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
            for one in [*document.get("services", {}).values(), *pods]:
                yield from (part.split() for part in " ".join(one.get("command", [])).split("&&"))
    else:
        lines = path.read_text().splitlines()
        yield from (line.split() for line in lines if not line.startswith("#") and "/bin/prefect" in line)


@functools.cache
def options_of(program, *names):
    """Return the options that a command's help shows."""
    command = [str(Path(sys.executable).with_name(program)), *names, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z-]+", shown))


def files(*folders):
    return [path for folder in folders for path in sorted((DEPLOY / folder).iterdir())]


@pytest.mark.parametrize("path", files("systemd", "docker", "kubernetes", "slurm"), ids=lambda path: path.name)
def test_what_is_deployed_names_commands_and_options_that_exist(path):
    checked = 0
    for words in commands_in(path):
        program = words[0].strip('"').rpartition("/")[2] if words else ""
        if program not in ("prefect", "bluesky-prefect", "uvicorn"):
            continue
        options = [word for word in words if word.startswith("--")]
        names = list(itertools.takewhile(lambda word: not word.startswith("-"), words[1:]))
        assert set(options) <= options_of(program, *names)
        checked += 1
    # The first one's command is the listener's unit's.
    assert checked or path.name in ("Dockerfile", "databases.sql")


def test_what_is_deployed_says_first_what_was_tried_and_names_settings_that_exist():
    known = {f"BLUESKY_PREFECT_{name}".upper() for name in Settings.model_fields}
    for path in files("systemd", "docker", "kubernetes", "slurm", "haproxy", "prefect", "tiled"):
        text = path.read_text()
        assert text.removeprefix("#!/bin/bash\n").startswith(
            ("# Tried: ", "# Not tried here: ", "-- Not tried here: ")
        ), path
        assert set(re.findall(r"\bBLUESKY_PREFECT_[A-Z_]+", text)) <= known, path


def test_files_that_the_compose_file_names_exist():
    path = DEPLOY / "docker" / "compose.yaml"
    services = yaml.safe_load(path.read_text())["services"].values()
    named = {one["env_file"] for one in services if "env_file" in one}
    named |= {mount.partition(":")[0] for one in services for mount in one.get("volumes", []) if mount.startswith(".")}
    contexts = [path.parent / one["build"]["context"] for one in services if "build" in one]
    assert all((path.parent / name).is_file() for name in named)
    assert all((context / "deploy" / "docker" / "Dockerfile").is_file() for context in contexts)
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    [extras] = re.findall(r'"/src\[(.*)\]"', dockerfile)
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
