"""Parts of a stack that have to be started anew, by what their processes were started with."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bluesky_prefect.stack._keys import StackKeys
from bluesky_prefect.stack._outdated import courier_outdated
from bluesky_prefect.stack._process import ManagedProcess


@pytest.fixture
def process() -> Iterator[Callable[..., ManagedProcess]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(**variables: str) -> ManagedProcess:
        environment = {f"BLUESKY_PREFECT_{name}": value for name, value in variables.items()}
        command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
        started.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        started[-1].stdout.readline()
        return ManagedProcess(pid=started[-1].pid, created=0.0, mark="", log=Path("log"))

    yield start
    for one in started:
        one.communicate()


@pytest.mark.parametrize(
    ("variables", "is_left"),
    [
        ({"TILED_URI": "https://tiled.example.org"}, True),
        ({"TILED_PROFILE": "facility"}, True),
        ({"TILED_URI": "http://127.0.0.1:1"}, False),
        ({}, False),
    ],
)
def test_a_courier_of_another_tiled_is_left_to_it_and_one_of_the_stack_follows_the_stack(process, variables, is_left):
    assert (courier_outdated(process(**variables), StackKeys.none(), moved=True) == "") is is_left
