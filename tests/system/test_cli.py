"""The commands against a running stack."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests.services.forked import run_command
from tests.services.prefect_process import user_of
from tests.services.second_looks import look_again


def cli(*arguments):
    return run_command(*arguments, env=os.environ)


def status(*options):
    return look_again(lambda: cli("status", *options), said=lambda done: done.stdout, times=10)


def test_up_ends_with_addresses_and_how_to_go_on(stack):
    done = cli("up", "--state-directory", str(stack.state_directory))
    assert done.returncode == 0, done.stderr
    assert done.stderr == "The stack is already running.\n"
    assert f"  Prefect UI   {stack.prefect_ui_url}/bluesky-prefect/sign-in#" in done.stdout
    for line in (
        f"  export PREFECT_API_URL={stack.prefect_api_url}",
        f"To stop it:     bluesky-prefect down --state-directory {stack.state_directory}",
    ):
        assert line in done.stdout.splitlines()
    for secret in (stack.tiled_api_key, stack.prefect_auth_string):
        assert secret.get_secret_value() not in done.stdout + done.stderr


def test_up_on_another_port_than_asked_for_says_how_to_change_it(stack):
    done = cli("up", "--state-directory", str(stack.state_directory), "--prefect-port", "1")
    assert done.returncode == 1
    port = stack.prefect_ui_url.rpartition(":")[2]
    assert f"Prefect server: runs on port {port}, not on 1. To change it: bluesky-prefect down, then up" in done.stderr
    assert stack.prefect_ui_url in done.stdout


def test_flows_of_a_state_directory_are_those_of_its_stack(stack):
    other = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_API_AUTH_STRING": "an:other's"}
    # Not forked: where the servers are is what Prefect must not have read before.
    command = [sys.executable, "-m", "bluesky_prefect", "flows", "--state-directory", str(stack.state_directory)]
    done = subprocess.run(command, env={**os.environ, **other}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_printed_commands_open_tiled_and_prefect(stack):
    done = cli("up", "--state-directory", str(stack.state_directory))
    exports = [line.strip() for line in done.stdout.splitlines() if "export " in line]
    script = "; ".join([*exports, 'printf "%s %s" "$TILED_API_KEY" "$PREFECT_API_AUTH_STRING"'])
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert shell.stdout.split() == [stack.tiled_api_key.get_secret_value(), user_of(stack)]


def test_status_ends_with_0_while_every_part_is_up(stack):
    done = status("--state-directory", str(stack.state_directory))
    assert done.returncode == 0, done.stdout + done.stderr
    assert stack.prefect_ui_url in done.stdout
    machine = json.loads(status("--json", "--state-directory", str(stack.state_directory)).stdout)
    assert machine["all_up"] is True
    assert {part["up"] for part in machine["parts"]} == {True}


@pytest.mark.parametrize("option", ["--tiled-port", "--prefect-port"])
def test_a_busy_port_is_one_line_and_exit_1(tmp_path, option):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        rest = {"--tiled-port": "0", "--prefect-port": "0", option: port}
        done = cli("up", "--state-directory", str(tmp_path), *[word for pair in rest.items() for word in pair])
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Error: Port {port}, wanted for the ")
    assert option in line
