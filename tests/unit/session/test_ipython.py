import ast
import json
from pathlib import Path

import pytest

from bluesky_prefect.core import Settings, default_state_directory
from bluesky_prefect.session._ipython import _ipython_directory, ipython_command, startup_files

_FILES = startup_files()


def test_the_startup_files_run_in_order():
    assert [path.name for path in _FILES] == [
        "00-run-engine.py",
        "10-devices.py",
        "20-plans.py",
        "90-workflows.py",
    ]


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_a_startup_file_stays_a_few_lines_and_defines_nothing(path: Path):
    source = path.read_text()

    assert len(source.splitlines()) <= 15
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, defined)]
    assert "__file__" not in source


def test_ipython_runs_the_startup_files_and_keeps_its_own_elsewhere(tmp_path: Path):
    command = ipython_command(_FILES, tmp_path)

    assert f"--ipython-dir={tmp_path}" in command
    (files,) = [argument for argument in command if "exec_files" in argument]
    assert json.loads(files.partition("=")[2]) == [str(path) for path in _FILES]


@pytest.mark.parametrize(("mode", "own"), [(0o700, False), (0o2770, True)])
def test_ipython_s_own_files_are_shared_with_nobody(tmp_path: Path, mode: int, own: bool):
    tmp_path.chmod(mode)
    directory = default_state_directory() if own else tmp_path
    assert _ipython_directory(Settings(state_directory=tmp_path)) == directory / "ipython"
