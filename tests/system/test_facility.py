"""Prefect on several servers, with the files in deploy/: what is killed there costs no run, and makes none twice."""

import configparser
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

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


def test_units_name_commands_and_options_that_exist():
    for unit in (DEPLOY / "systemd").glob("*.service"):
        assert unit.read_text().startswith("# Tried:"), unit
        parsed = configparser.ConfigParser(strict=False, interpolation=None)
        parsed.optionxform = str
        parsed.read(unit)
        program, *words = parsed["Service"]["ExecStart"].split()
        command = [str(DEPLOY.parent / ".venv" / "bin" / program.rpartition("/")[2])]
        arguments = [word for word in words if not word.startswith("-") and not re.search(r"[%\d.]", word)]
        options = [word for word in words if word.startswith("--")]
        shown = subprocess.run([*command, *arguments, "--help"], capture_output=True, text=True, check=True).stdout
        assert [option for option in options if option not in shown] == []
