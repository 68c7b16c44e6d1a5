"""Prefect on several servers, with the files in deploy/: what is killed there costs no run, and makes none twice."""

import configparser
import itertools
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from bluesky_prefect import Settings
from tests.services.facility import DEPLOY, Facility
from tests.services.postgres import empty_database
from tests.services.prefect_process import wait_until
from tests.services.worker_process import WorkerProcess

FLOW = """
from prefect import flow


@flow
def trivial():
    pass
"""


@pytest.fixture(scope="module")
def facility(tmp_path_factory):
    with empty_database() as database:
        if database is None:
            pytest.skip("there is no PostgreSQL server")
        facility = Facility(tmp_path_factory.mktemp("facility"), database)
        yield facility
        facility.close()


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


def files(*folders):
    return [path for folder in folders for path in sorted((DEPLOY / folder).iterdir())]


@pytest.mark.parametrize("path", files("systemd", "docker", "kubernetes", "slurm"), ids=lambda path: path.name)
def test_what_is_deployed_names_commands_and_options_that_exist(path):
    checked = 0
    for words in commands_in(path):
        program = words[0].strip('"').rpartition("/")[2] if words else ""
        if program not in ("prefect", "bluesky-prefect"):
            continue
        options = [word for word in words if word.startswith("--")]
        names = list(itertools.takewhile(lambda word: not word.startswith("-"), words[1:]))
        command = [str(Path(sys.executable).with_name(program)), *names, "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert set(options) <= set(re.findall(r"--[a-z-]+", shown))
        checked += 1
    assert checked or path.name == "Dockerfile"  # its command is the listener's unit's


def test_what_is_deployed_says_first_what_was_tried_and_names_settings_that_exist():
    known = {f"BLUESKY_PREFECT_{name}".upper() for name in Settings.model_fields}
    for path in files("systemd", "docker", "kubernetes", "slurm", "haproxy", "prefect"):
        text = path.read_text()
        assert text.removeprefix("#!/bin/bash\n").startswith(("# Tried: ", "# Not tried here: ")), path
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
