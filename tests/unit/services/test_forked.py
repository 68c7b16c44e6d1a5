"""A forked command is as one that an interpreter of its own runs."""

import os
import subprocess
import sys

import pytest

from tests.services.forked import run_code, run_command, run_module

SAYS = """
import os, sys
print(os.environ["WORD"], os.getcwd(), sys.argv[1:], __name__)
print("to the other", file=sys.stderr)
sys.exit(3)
"""


def test_it_has_environment_directory_arguments_and_output_and_an_exit_code(tmp_path):
    done = run_code(SAYS, "a", "b c", env={**os.environ, "WORD": "x"}, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, f"x {tmp_path} ['a', 'b c'] __main__\n")
    assert done.stderr == "to the other\n"
    assert "WORD" not in os.environ


@pytest.mark.parametrize(
    ("code", "returncode", "said"),
    [
        ("raise ValueError('boom')", 1, "ValueError: boom"),
        ("import sys; sys.exit('no')", 1, "no"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("import atexit, sys; atexit.register(print, 'last', file=sys.stderr)", 0, "last"),
        ("import threading, time, sys\nthreading.Timer(0.1, print, ['late'], {'file': sys.stderr}).start()", 0, "late"),
    ],
)
def test_it_ends_as_an_interpreter_does(code, returncode, said):
    for run in (run_code, interpreted):
        done = run(code, env=os.environ)
        assert done.returncode == returncode
        assert said in done.stderr


def interpreted(code, *, env):
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_prefect_has_the_settings_of_its_environment():
    code = "from prefect.settings import PREFECT_API_URL; print(PREFECT_API_URL.value())"
    for url in ("http://a:1/api", "http://b:2/api"):
        assert run_code(code, env={**os.environ, "PREFECT_API_URL": url}).stdout == f"{url}\n"


def test_commands_and_modules_are_run():
    assert run_command("--version", env=os.environ).stdout.startswith("bluesky-prefect 0.")
    assert "No such command" in run_module("bluesky_prefect", "nonsense", env=os.environ).stderr


def test_what_it_is_forked_from_has_one_thread():
    code = "import os; print(len(os.listdir(f'/proc/{os.getppid()}/task')))"
    assert run_code(code, env=os.environ).stdout == "1\n"
