"""`bluesky-prefect deploy` on a server that others use, too, and what it says of Tiled."""

import os
import re
import subprocess
import sys

import pytest
from tiled.client import from_uri

from bluesky_prefect.core import ConfigurationError, Settings
from bluesky_prefect.session._tiled import TiledConnection
from bluesky_prefect.tiled_api import RAW_SPEC, Catalog
from tests.services.forked import run_command
from tests.services.prefect_process import ask
from tests.services.second_looks import look_again


class Facility:
    """The stack's servers, as a facility has them: the shell knows where they are, and no list of workflows."""

    def __init__(self, stack):
        self._stack = stack
        self.environment = {**os.environ, **stack.environment()}
        del self.environment["BLUESKY_PREFECT_WORKFLOWS"]
        for pool in ("srx", "csx"):
            self.ask("POST", "/work_pools/", json={"name": pool, "type": "process"})

    def ask(self, method, path, **content):
        return ask(self._stack, method, path, **content)

    def run(self, *arguments, **environment):
        done = run_command(*arguments, env={**self.environment, **environment})
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def deploy(self, pool, *options, **environment):
        return self.run("deploy", "--work-pool", pool, *options, **environment)

    def deployment(self, name):
        answer = self.ask("GET", f"/deployments/name/{name}")
        return answer.json() if answer.status_code == 200 else None


@pytest.fixture(scope="module")
def facility(stack):
    return Facility(stack)


LIST = "tests.system.hutch:WORKFLOWS"


def test_a_deployment_on_another_pool_is_not_moved_unless_that_is_said(facility):
    assert facility.deploy("srx", "--name", "first")[0] == 0
    code, said = facility.deploy("csx", "--name", "first")
    assert code == 1
    assert "my-workflow/first on work pool 'srx'" in said
    assert "--move" in said
    assert "--name" in said
    pools = [facility.deployment(f"{flow}/first")["work_pool_name"] for flow in ("my-workflow", "data-validation")]
    assert pools == ["srx", "srx"]

    assert facility.deploy("srx", "--name", "first")[0] == 0, "on its own pool it is brought up to date"
    assert facility.deploy("csx", "--name", "first", "--move")[0] == 0
    assert facility.deployment("find-peak/first")["work_pool_name"] == "csx"


def test_nothing_is_deployed_where_one_would_be_moved(facility):
    assert facility.deploy("srx", "--name", "last", "--reconcile-every", "86400", "--workflows", LIST)[0] == 0
    for flow in ("my-workflow", "data-validation", "find-peak"):
        found = facility.deployment(f"{flow}/last")["id"]
        facility.ask("DELETE", f"/deployments/{found}")
    code, said = facility.deploy("csx", "--name", "last", "--reconcile-every", "86400", "--workflows", LIST)
    assert code == 1
    assert "reconcile/last on work pool 'srx'" in said
    assert facility.deployment("my-workflow/last") is None


def test_deploy_says_what_is_paused_or_limited_of_the_work_pool_and_how_that_is_undone(facility):
    facility.ask("POST", "/work_pools/", json={"name": "held", "type": "process"})
    _, said = facility.deploy("held", "--name", "held")
    assert "is paused" not in said
    assert "at once at most" not in said
    facility.ask("PATCH", "/work_pools/held", json={"concurrency_limit": 3})
    facility.ask("PATCH", "/work_pools/held/queues/default", json={"is_paused": True, "concurrency_limit": 1})
    code, said = facility.deploy("held", "--name", "held")
    assert code == 0
    commands = re.findall(r"'prefect (work-[^']+)'", said)
    assert "Work pool held runs 3 at once at most" in said
    assert "Its queue default is paused" in said
    assert "Its queue default runs 1 at once at most" in said
    assert len(commands) == 3
    for one in commands:
        command = [sys.executable, "-m", "prefect", *one.split()]
        done = subprocess.run(command, env=facility.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    _, said = facility.deploy("held", "--name", "held")
    assert "is paused" not in said
    assert "at once at most" not in said


def test_deploying_reconcile_needs_the_list_and_keeps_it_in_the_deployment(facility):
    code, said = facility.deploy("srx", "--name", "listed", "--reconcile-every", "86400")
    assert code == 1
    assert "--workflows" in said
    assert "BLUESKY_PREFECT_WORKFLOWS" in said
    assert facility.deployment("my-workflow/listed") is None, "nothing was deployed"

    code, said = facility.deploy(
        "srx", "--name", "listed", "--reconcile-every", "86400", BLUESKY_PREFECT_WORKFLOWS=LIST
    )
    assert code == 0, said
    assert facility.deployment("reconcile/listed")["parameters"] == {"workflows": LIST}
    assert f"with the list {LIST}" in said
    assert "If beamlines share a catalog" in said

    code, said = facility.deploy(
        "srx", "--name", "listed", "--reconcile-every", "86400", "--workflows", "no_such.module:workflows"
    )
    assert code == 0, "the workers may have it"
    assert "it cannot be loaded here" in said


@pytest.fixture
def root(stack):
    root = from_uri(stack.tiled_uri, api_key=stack.tiled_api_key.get_secret_value())
    yield root
    root.context.close()


def settings_of(stack, container, directory):
    return Settings(
        tiled_uri=stack.tiled_uri,
        tiled_api_key=stack.tiled_api_key,
        raw_container=container,
        state_directory=directory,
    )


def catalog_problem(connection):
    try:
        return connection.catalog_problem()
    except ConfigurationError as error:
        return str(error)


def test_a_catalog_without_its_spec_is_told_of_with_the_command_that_mends_it(facility, stack, root, tmp_path):
    root.create_container("plain", metadata={"by": "hand"})
    settings = settings_of(stack, "plain", tmp_path)
    variables = {"BLUESKY_PREFECT_RAW_CONTAINER": "plain", "BLUESKY_PREFECT_STATE_DIRECTORY": str(tmp_path)}
    lacking = "The catalog 'plain' of Tiled at"

    code, said = facility.deploy("srx", "--name", "plain", **variables)
    assert code == 0
    assert lacking in said
    assert "bluesky-prefect make-catalog" in said
    code, said = facility.run("reconcile", "--workflows", LIST, **variables)
    assert lacking in said
    session = "from bluesky_prefect.session import start_session; start_session('my-workflow/local')"
    command, environment = [sys.executable, "-c", session], {**facility.environment, **variables}
    done = look_again(
        lambda: subprocess.run(command, env=environment, capture_output=True, text=True, check=False),
        said=lambda done: done.stdout,
    )
    assert lacking in done.stdout, done.stderr

    code, said = facility.run("make-catalog", **variables)
    assert code == 0, said
    assert [(spec.name, spec.version) for spec in root["plain"].specs] == [RAW_SPEC]
    assert root["plain"].metadata["by"] == "hand"
    connection = TiledConnection(settings)
    assert look_again(lambda: catalog_problem(connection)) == ""
    connection.close()
    assert lacking not in facility.run("reconcile", "--workflows", LIST, **variables)[1]


def test_a_catalog_is_made_with_what_is_above_it(facility, stack, root, tmp_path):
    code, said = facility.run("make-catalog", BLUESKY_PREFECT_RAW_CONTAINER="beamlines/srx/raw")
    assert code == 0, said
    assert root["beamlines", "srx", "raw"].specs[0].name == RAW_SPEC[0]
    with Catalog.connect(settings_of(stack, "beamlines/srx/raw", tmp_path)) as catalog:
        assert not catalog.make_raw(), "there is nothing left to do"
