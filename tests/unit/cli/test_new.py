"""`bluesky-prefect new`: files that a scientist begins with; and what `deploy` says before it asks anybody."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bluesky_prefect.cli._app import app
from bluesky_prefect.cli._deploy import _list
from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.prefect_api import flow_in_file

ROOT = Path(__file__).parents[3]


def run(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exception, result.output


def test_new_writes_a_flow_and_its_test(tmp_path):
    error, said = run("new", "strain-map", "--directory", tmp_path)
    assert error is None
    assert f"bluesky-prefect deploy {tmp_path}/strain_map.py:strain_map --add" in said
    flow, entrypoint = flow_in_file(str(tmp_path / "strain_map.py"))
    assert (flow.name, entrypoint.rpartition(":")[2]) == ("strain-map", "strain_map")
    written = "".join(path.read_text() for path in tmp_path.glob("*.py"))
    assert "my_analysis" not in written
    assert "my-analysis" not in written
    assert "from strain_map import" in (tmp_path / "test_strain_map.py").read_text()


def test_what_new_writes_passes_ruff(tmp_path):
    run("new", "strain-map", "--directory", tmp_path)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("there", ["strain_map.py", "test_strain_map.py"])
def test_new_never_overwrites(tmp_path, there):
    (tmp_path / there).write_text("mine")
    error, _ = run("new", "strain-map", "--directory", tmp_path)
    assert isinstance(error, ConfigurationError)
    assert there in str(error)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize("name", ["my analysis", "1st", "../x", "class", ""])
def test_new_refuses_a_name_that_no_flow_can_have(tmp_path, name):
    error, _ = run("new", name, "--directory", tmp_path)
    assert isinstance(error, ConfigurationError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such.py:f"], "There is no file"),
        ([], "Say what to deploy"),
        (["--work-pool", "p", "--add"], "Say what to deploy"),
        (["x.py:f", "--reconcile-every", "60"], "--reconcile-every"),
    ],
)
def test_deploy_says_what_it_cannot_deploy_before_it_asks_anybody(arguments, said):
    error, _ = run("deploy", *arguments)
    assert isinstance(error, ConfigurationError)
    assert said in str(error)


@pytest.mark.parametrize("add", [False, True])
def test_deploy_says_that_runs_start_it_already_and_not_to_add_it(tmp_path, capsys, add):
    listed = tmp_path / "workflows.py"
    listed.write_text("workflows = ['mine/local']\n")
    _list(f"{listed}:workflows", "mine/local", add=add)
    shown = capsys.readouterr()
    assert " ".join(shown.err.split()) == f"It was already on the list of what runs start: {listed}:workflows"
    assert shown.out == ""
    _list(f"{listed}:workflows", "other/local", add=False)
    assert capsys.readouterr().out == 'workflows.append(Workflow("other/local"))\n'
    listed.write_text("workflows = [")
    _list(f"{listed}:workflows", "mine/local", add=False)
    assert "SyntaxError" in capsys.readouterr().err
