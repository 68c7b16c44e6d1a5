"""From a fresh clone to an analysis of one's own that a scan starts, as the how-to says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings

from bluesky_prefect.core import Settings
from bluesky_prefect.tiled_api import Catalog, results_of
from tests.services.prefect_process import ask, prefect_settings, wait_until
from tests.system.test_ipython import Terminal

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "write-your-own-analysis.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)", PAGE[: PAGE.index("## Make it yours")], re.MULTILINE)
BIN = Path(sys.executable).parent
DONE_TIMEOUT_S = 170


@pytest.fixture
def environment(stack, tmp_path):
    """The local stack's own state directory, with its list of workflows as it was afterwards."""
    listed = stack.state_directory / "workflows.py"
    before = listed.read_bytes()
    yield {**os.environ, "BLUESKY_PREFECT_STATE_DIRECTORY": str(stack.state_directory), "HOME": str(tmp_path)}
    listed.write_bytes(before)


@pytest.fixture
def shell(environment):
    def run(command, code=0):
        command = command.replace(".venv/bin/", f"{BIN}/")
        done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return " ".join((done.stdout + done.stderr).split())

    return run


@pytest.fixture
def prompt(environment):
    """`make ipython`, in a tree that is installed."""
    terminal = Terminal([str(BIN / "bluesky-prefect"), "ipython", "--simple-prompt", "--colors=NoColor"], environment)
    yield terminal
    terminal.kill()


def results(stack, uid):
    with Catalog.connect(Settings(tiled_uri=stack.tiled_uri, tiled_api_key=stack.tiled_api_key)) as catalog:
        return results_of(catalog, uid)


def own_flow_run(stack, uid):
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter

    with temporary_settings(prefect_settings(stack)), get_client(sync_client=True) as client:
        [flow_run] = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"tags": {"any_": [f"uid:{uid}"]}}),
            flow_filter=FlowFilter.model_validate({"name": {"any_": ["my-analysis"]}}),
        )
        return flow_run


def test_there_are_two_commands():
    assert len(COMMANDS) == 2


@pytest.mark.timeout(600)
def test_a_scan_starts_an_analysis_of_ones_own_after_these_commands(stack, shell, prompt, tmp_path):
    for command in COMMANDS:
        said = shell(command)
    assert "starts with the next run that begins" in said
    assert "was already on the list" in shell(COMMANDS[-1])

    uid = prompt.run("scan([det], motor, -2, 2, 11)")  # the session was open before
    prompt.type("%wait_flows", timeout_s=DONE_TIMEOUT_S)
    metadata = results(stack, uid)[f"processed/my-analysis-{uid}"]
    assert (metadata["points"], metadata["raw_uid"]) == (11, uid)
    assert own_flow_run(stack, uid).state_name == "Completed"

    file = tmp_path / "analysis" / "my_analysis.py"
    file.write_text(file.read_text().replace('"points":', '"edited":'))
    second = prompt.run("count([det], 2)")
    prompt.type("%wait_flows", timeout_s=DONE_TIMEOUT_S)
    assert results(stack, second)[f"processed/my-analysis-{second}"]["edited"] == 2, "edits count at once"

    prompt.type(f"%run -i {file}")
    third = prompt.run("count([det], 3, md={'prefect': False})")
    assert f"processed/my-analysis-{third}" in prompt.type("my_analysis(-1)")
    assert results(stack, third)[f"processed/my-analysis-{third}"]["edited"] == 3


@pytest.fixture
def own_flow(shell, prompt, tmp_path):
    """A flow that `new` writes, loaded at the prompt after a scan, perhaps with a line more in `analyse`."""
    shell(f".venv/bin/bluesky-prefect new own-flow --directory {tmp_path}")
    file = tmp_path / "own_flow.py"
    prompt.run("count([det], 2), prefect=False")

    def load(line=""):
        before, table, after = file.read_text().partition("    table = run.table()")
        assert table
        file.write_text(f"{before}    {line}\n{table}{after}")
        prompt.type(f"%run -i {file}")

    return load


def flow_runs_of(stack, flow):
    found = ask(stack, "POST", "/flow_runs/filter", json={"flows": {"name": {"any_": [flow]}}}).json()
    return sorted((one["name"], one["state_name"]) for one in found)


def test_a_mistake_with_a_flow_of_ones_own_is_a_line_and_no_flow_run(stack, own_flow, prompt):
    own_flow()
    before = flow_runs_of(stack, "own-flow")
    for line, said in {
        "own_flow(-99)": "RunNotFound: ",
        'own_flow("zzz")': "FlowInputError: 'zzz' is too short",
        "own_flow()": "FlowInputError: own-flow: missing a required argument: 'ref'. It takes: ref.",
        "own_flow(1.5)": "FlowInputError: ref=1.5: ",
    }.items():
        shown = [one for one in prompt.type(line).splitlines()[1:] if one.strip()]
        assert len(shown) == 1, shown
        assert shown[0].startswith(said)
    assert flow_runs_of(stack, "own-flow") == before


def test_an_error_in_ones_own_flow_leads_to_its_line_alone(stack, own_flow, prompt):
    own_flow("1 / 0")
    said = prompt.type("own_flow(-1)")
    assert "own_flow.py:" in said
    assert "1 / 0" in said
    assert said.count("Traceback") == 1
    assert "site-packages" not in said
    assert said.rstrip().endswith("ZeroDivisionError: division by zero")
    assert ("own-flow -1", "Failed") in flow_runs_of(stack, "own-flow")
    assert wait_until(lambda: tracebacks_in_log(stack)), "Prefect's UI shows it"


def tracebacks_in_log(stack):
    said = [one["message"] for one in ask(stack, "POST", "/logs/filter", json={"sort": "TIMESTAMP_DESC"}).json()]
    return [one for one in said if "Encountered exception during execution: ZeroDiv" in one and "Traceback" in one]


def test_ctrl_c_cancels_the_flow_run_of_ones_own_flow(stack, own_flow, prompt):
    own_flow("print('waits'); __import__('time').sleep(60)")
    # As quick as a person: a signal in the middle of Prefect's logging of that line is another matter.
    said = prompt.interrupt("own_flow(-1)", after="waits", reaction_s=0.5)
    assert "Interrupted: flow run 'own-flow -1' is cancelled." in said
    assert "Traceback" not in said
    assert ("own-flow -1", "Cancelled") in flow_runs_of(stack, "own-flow")


def test_the_test_that_new_writes_passes_without_a_server(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TILED_"))}
    subprocess.run([BIN / "bluesky-prefect", "new", "my-analysis"], cwd=tmp_path, env=environment, check=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_analysis.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_deployment_of_another_file_is_not_taken_over_unasked(shell, tmp_path):
    files = [tmp_path / who / "my_analysis.py" for who in ("colleague", "mine")]
    for file in files:
        file.parent.mkdir()
        shutil.copy(ROOT / "src/bluesky_prefect/cli/templates/my_analysis.py", file)
    theirs, mine = (f".venv/bin/bluesky-prefect deploy {file}:my_analysis --name shared" for file in files)
    shell(theirs)
    said = shell(mine, code=1)
    assert f"Prefect already has my-analysis/shared, which runs {files[0]}:my_analysis" in said
    assert "--name" in said
    shell(theirs)
    shell(f"{mine} --move")
    assert f"which runs {files[1]}:my_analysis" in shell(theirs, code=1)


@pytest.fixture
def docker_pool(stack):
    ask(stack, "POST", "/work_pools/", json={"name": "images", "type": "docker"})


@pytest.mark.usefixtures("docker_pool")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("deploy {file} --work-pool no-such-pool", "has no work pool 'no-such-pool'"),
        ("deploy {file} --work-pool images --name images", "'images' is of type docker: its flow runs do not see"),
        ("deploy {file}:my_anlysis", "has no 'my_anlysis'. Its flows: my_analysis."),
        ("deploy {file}:analyse", "is a Task and no flow"),
        ("deploy {file} --name own --workflows bluesky_prefect.stack:WORKFLOWS --add", "is not a file"),
    ],
)
def test_what_cannot_be_deployed_is_said_in_a_line(shell, tmp_path, command, said):
    shutil.copy(ROOT / "src/bluesky_prefect/cli/templates/my_analysis.py", file := tmp_path / "my_analysis.py")
    assert said in shell(f".venv/bin/bluesky-prefect {command.format(file=file)}", code=1)


def test_where_no_stack_runs_deploy_says_how_to_start_it(tmp_path):
    shutil.copy(ROOT / "src/bluesky_prefect/cli/templates/my_analysis.py", file := tmp_path / "my_analysis.py")
    environment = {**os.environ, "BLUESKY_PREFECT_STATE_DIRECTORY": str(tmp_path / "state")}
    environment["BLUESKY_PREFECT_PREFECT_PORT"] = "9"
    command = [BIN / "bluesky-prefect", "deploy", file]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "bluesky-prefect up" in done.stderr
    assert len(done.stderr.splitlines()) == 1
