"""The command line without a stack: help, errors, exit codes."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from bluesky_prefect.stack._info import StackState
from bluesky_prefect.stack._status import FlowRunStatus
from tests.services.forked import run_command
from tests.services.loopback import Loopback

ROOT = Path(__file__).parents[3]


class Welcoming(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def cli(*arguments, **environment):
    return run_command(*arguments, env={**os.environ, **environment})


@pytest.mark.parametrize(
    "command", [(), ("up",), ("down",), ("status",), ("demo",), ("ipython",), ("reconcile",), ("submit",)], ids=" ".join
)
def test_help_is_there_for_every_command(command):
    done = cli(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_help_tells_a_newcomer_where_to_begin():
    assert "bluesky-prefect demo" in cli("--help").stdout


def test_version():
    assert cli("--version").stdout.startswith("bluesky-prefect 0.")


@pytest.mark.parametrize(
    "arguments",
    [("up", "--nonsense"), ("nonsense",), ("up", "--tiled-port", "70000"), ("up", "--tiled-port", "x"), ("down", "x")],
    ids=" ".join,
)
def test_wrong_arguments_end_with_2(arguments):
    done = cli(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_setting_that_cannot_be_used_is_one_line_that_names_it():
    done = cli("status", BLUESKY_PREFECT_TILED_PORT="many")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: A setting cannot be used: BLUESKY_PREFECT_TILED_PORT:")
    assert len(done.stderr.splitlines()) == 1


def test_down_without_a_stack_says_so_and_ends_with_0(tmp_path):
    done = cli("down", "--state-directory", str(tmp_path))
    assert done.returncode == 0
    assert "No stack is running." in done.stderr


def test_status_without_a_stack_shows_every_part_as_down_and_ends_with_1(tmp_path):
    done = cli("status", "--state-directory", str(tmp_path))
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("down: not started") == 4
    assert "Outbox: 0 waiting, 0 sent, 0 dead" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_status_says_when_the_stack_was_stopped(tmp_path):
    StackState(last_ports={"tiled": 1, "prefect": 2}, stopped_s=1e9).save(tmp_path / "stack.json")
    done = cli("status", "--state-directory", str(tmp_path))
    assert done.stdout.count(f"down: stopped {datetime.fromtimestamp(1e9):%Y-%m-%d %H:%M}") == 4
    assert "Flow runs: unknown, Prefect is not running" in done.stdout


def test_status_shows_servers_of_ones_own_and_what_names_them(tmp_path):
    with closing(Loopback(Welcoming)) as server:
        tiled = f"http://{server.address}"
        named = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "BLUESKY_PREFECT_TILED_URI": tiled}
        done = cli("status", "--state-directory", str(tmp_path), **named)
    assert done.returncode == 1
    [tiled_line] = [line for line in done.stdout.splitlines() if line.startswith("Tiled server")]
    assert re.search(rf"^Tiled server +up +{tiled}  \(BLUESKY_PREFECT_TILED_URI\)", tiled_line)
    assert "down: Connection refused: check PREFECT_API_URL" in done.stdout
    assert "SQLite" not in done.stdout
    assert "worker" not in done.stdout


@pytest.mark.parametrize("command", [["reconcile"], ["submit", "-1"], ["flows"]])
def test_a_command_says_that_the_local_stack_is_down(tmp_path, command):
    StackState(last_ports={"tiled": 1, "prefect": 2}).save(tmp_path / "stack.json")
    elsewhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}  # another stack's, as its 'up' shows it
    done = cli(*command, "--state-directory", str(tmp_path), **elsewhere)
    assert done.returncode == 1
    [line] = (done.stdout + done.stderr).splitlines()
    remedy = f"Start it with: bluesky-prefect up --state-directory {tmp_path}"
    assert line.removeprefix("Error: ") == f"The local stack is down (state directory {tmp_path}). {remedy}"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({}, "No Tiled server is named: set BLUESKY_PREFECT_TILED_URI, or start a local stack"),
        (
            {"BLUESKY_PREFECT_TILED_URI": "http://tiled.invalid"},
            "Tiled at http://tiled.invalid does not answer (Name or service not known): check BLUESKY_PREFECT_",
        ),
    ],
)
def test_a_command_names_the_address_and_its_setting(tmp_path, named, said):
    done = cli("reconcile", "--state-directory", str(tmp_path), **named)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {said}")
    assert len(done.stderr.splitlines()) == 1


def test_status_is_there_for_programs(tmp_path):
    status = json.loads(cli("status", "--json", "--state-directory", str(tmp_path)).stdout)
    assert status["all_up"] is False
    assert [part["name"] for part in status["parts"]] == ["tiled", "prefect", "worker", "courier"]
    assert status["outbox"] == {"waiting": 0, "sent": 0, "dead": 0, "declined": 0}


def test_the_reference_names_each_key_of_status_for_programs_and_what_is_in_it(tmp_path):
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    rows = [line.split("|") for line in page.partition("Of `status`:")[2].partition("\n#")[0].splitlines()]
    told = {
        key: re.findall(r"`(\w+)`", row[2]) for row in rows if len(row) == 4 for key in re.findall(r"`(\w+)`", row[1])
    }
    status = json.loads(cli("status", "--json", "--state-directory", str(tmp_path)).stdout)
    assert told.keys() == status.keys()
    [part, *_] = status["parts"]
    for found, key in ((part, "parts"), (status["outbox"], "outbox")):
        assert set(found) <= set(told[key])
    assert {field.name for field in dataclasses.fields(FlowRunStatus)} == set(told["flow_runs"])


@pytest.mark.parametrize(("missing", "extra"), [("typer", "cli"), ("psutil", "cli"), ("tiled", "local")])
def test_a_missing_extra_is_an_error_that_says_what_to_install(tmp_path, missing, extra):
    # An entry of None makes the import fail as if the package were not there.
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "sys.argv[1:] = ['up', '--state-directory', sys.argv[1]]\n"
        "from bluesky_prefect.cli import main; main()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f'pip install "bluesky-prefect[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("missing", "extra", "arguments"),
    [
        ("zmq", "zmq", ["zmq", "127.0.0.1:1"]),
        ("confluent_kafka", "kafka", ["kafka", "topic", "--servers", "127.0.0.1:1"]),
    ],
)
def test_a_listener_without_its_client_says_what_to_install(tmp_path, missing, extra, arguments):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"sys.argv[1:] = ['listen', *{arguments!r}, '--state-directory', sys.argv[1]]\n"
        "from bluesky_prefect.cli import main; main()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert f'pip install "bluesky-prefect[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_courier_without_what_writes_to_tiled_says_what_to_install():
    code = (
        "import sys; sys.modules['tiled'] = None\n"
        "from bluesky_prefect.cli._courier import _raw_catalog\n"
        "from bluesky_prefect.core import ConfigurationError\n"
        "try: _raw_catalog()\nexcept ConfigurationError as error: print(error)"
    )
    environment = {**os.environ, "BLUESKY_PREFECT_TILED_URI": "http://127.0.0.1:9", "TILED_API_KEY": "secret"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert 'pip install "bluesky-prefect[courier]"' in done.stdout


def test_help_imports_neither_prefect_nor_tiled():
    code = (
        "import sys\nfrom bluesky_prefect.cli import main\nsys.argv[1:] = ['--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('prefect', 'tiled', 'bluesky', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "1", "--parameters", "{x"], "--parameters is not JSON"),
        (["submit", "1", "--parameters", "[1]"], "not a JSON object"),
        (["reconcile", "--since", "yesterday"], "'yesterday' is not a time: write 24h, 7d, or 2026-01-31"),
        (["reconcile", "--since", "1h", "--until", "2h"], "--since 1h must be earlier than --until 2h"),
    ],
)
def test_an_argument_that_cannot_be_used_is_told_before_anything_is_asked(arguments, said):
    done = cli(*arguments)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize("ref", ["-1", "-10..-1"])
def test_a_negative_index_is_a_run_and_no_option(tmp_path, ref):
    done = cli("submit", ref, "--state-directory", str(tmp_path))
    assert done.returncode == 1
    assert "No Tiled server is named" in done.stderr


def test_an_option_that_submit_does_not_have_is_no_run(tmp_path):
    done = cli("submit", "1", "--agian", "--state-directory", str(tmp_path))
    assert done.returncode == 2
    assert "No such option: --agian" in done.stderr


def test_reconcile_without_servers_says_which_one_is_not_there(tmp_path):
    done = cli("reconcile", "--state-directory", str(tmp_path))
    assert done.returncode == 1
    assert "No Tiled server is named: set BLUESKY_PREFECT_TILED_URI" in done.stderr
    assert list(tmp_path.iterdir()) == []
