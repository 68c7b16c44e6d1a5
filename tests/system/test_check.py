"""`bluesky-prefect check` against real servers: all well, and with what goes wrong at a beamline."""

import json
import os
from pathlib import Path

import bluesky.plans as bp
import pytest
from prefect.settings import temporary_settings

from tests.services.forked import run_code, run_command
from tests.services.prefect_process import prefect_settings, user_of
from tests.services.second_looks import look_again
from tests.system.beamline import Beamline

# By these programs know what was looked at.
KEYS = {
    ("machine", "version"),
    ("machine", "state_directory"),
    ("machine", "rights"),
    ("machine", "output_directory"),
    ("workflows", "list"),
    ("workflows", "deployment"),
    ("prefect", "address"),
    ("prefect", "credentials"),
    ("prefect", "version"),
    ("workers", "pool"),
    ("tiled", "address"),
    ("tiled", "key"),
    ("tiled", "version"),
    ("tiled", "raw"),
    ("tiled", "files"),
    ("tiled", "processed"),
    ("clocks", "prefect"),
    ("clocks", "tiled"),
    ("outbox", "waiting"),
    ("journals", "waiting"),
    ("journals", "courier"),
}


def check(stack, *arguments, cwd=None, **environment):
    """Run the command on the stack; return its exit code, and what it found."""
    variables = {**os.environ, **stack.environment(), **environment}
    done = look_again(
        lambda: run_command("check", "--json", *arguments, env=variables, cwd=cwd), said=lambda done: done.stdout
    )
    assert "Traceback" not in done.stderr, done.stderr
    for secret in (stack.tiled_api_key.get_secret_value(), user_of(stack)):
        assert secret not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


def problems(findings):
    return {(one["subject"], one["name"]): one for one in findings if one["state"] == "problem"}


@pytest.fixture(scope="module")
def raw(stack):
    from tiled.client import from_uri

    root = from_uri(stack.tiled_uri, api_key=stack.tiled_api_key.get_secret_value())
    yield root["raw"]
    root.context.close()


@pytest.fixture(scope="module", autouse=True)
def _without_files(raw, stack):
    """The newest runs, which are looked at, are none of those that other tests have broken."""
    beamline = Beamline(raw, stack.images)
    for _ in range(3):
        beamline.run(bp.count([beamline.devices.det], 1))


def test_on_a_stack_that_is_up_everything_is_looked_at_and_nothing_is_wrong(stack):
    code, findings = check(stack)
    assert problems(findings) == {}
    assert code == 0
    assert {(one["subject"], one["name"]) for one in findings} == KEYS
    arguments = ("check", "--state-directory", str(stack.state_directory))
    people = look_again(lambda: run_command(*arguments, env=os.environ), said=lambda done: done.stdout)
    assert people.returncode == 0, people.stdout
    assert f"  ok      {stack.tiled_uri} (from the local stack)" in people.stdout.splitlines()


def test_wrong_credentials_are_told_with_what_sets_them(stack):
    wrong = {"BLUESKY_PREFECT_TILED_API_KEY": "abc123", "TILED_API_KEY": "abc123", "PREFECT_API_AUTH_STRING": "a:b"}
    code, findings = check(stack, **wrong)
    assert code == 1
    found = problems(findings)
    assert found.keys() == {("tiled", "key"), ("prefect", "credentials")}
    assert "TILED_API_KEY" in found["tiled", "key"]["found"]
    assert "PREFECT_API_AUTH_STRING" in found["prefect", "credentials"]["found"]


def test_a_deployment_that_is_not_there_is_told_with_those_of_near_names(stack, tmp_path):
    (tmp_path / "our_list.py").write_text("workflows = ['my-workflow/lokal', 'find-peak/local']\n")
    code, findings = check(stack, "--workflows", "our_list:workflows", PYTHONPATH=str(tmp_path))
    assert code == 1
    [(key, found)] = problems(findings).items()
    assert key == ("workflows", "deployment")
    assert "'my-workflow/lokal'" in found["found"]
    assert "there is my-workflow/local" in found["remedy"]


NOTIFYING = """
from bluesky_prefect import Workflow

workflows = [
    Workflow("my-workflow/local", notify=["slack/mon-beamline", "secret/no-address"]),
    Workflow("find-peak/local", notify=["slack/mon-beamline", "slack/known"], notify_on="run-failure"),
]
"""


# apprise, through which Prefect's blocks send, imports it.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_a_notification_block_that_is_not_there_is_told_with_the_command(stack, tmp_path):
    from prefect.blocks.notifications import SlackWebhook
    from prefect.blocks.system import Secret

    (tmp_path / "our_list.py").write_text(NOTIFYING)
    with temporary_settings(prefect_settings(stack)):
        SlackWebhook(url="json://127.0.0.1:9/token").save("known", overwrite=True)
        Secret(value="x").save("no-address", overwrite=True)
    code, findings = check(stack, "--workflows", "our_list:workflows", PYTHONPATH=str(tmp_path))
    assert code == 1
    missing, no_address, known = [one for one in findings if one["name"] == "notification"]
    assert [one["state"] for one in (missing, no_address, known)] == ["problem", "problem", "ok"]
    said = "no message of my-workflow/local, find-peak/local is sent: Prefect has no notification block "
    assert missing["found"].startswith(f"{said}'slack/mon-beamline'")
    assert "SlackWebhook(url=input('Address: ')).save('mon-beamline')" in missing["found"]
    assert "my-workflow/local is sent: Prefect's block 'secret/no-address' cannot send" in no_address["found"]
    assert known["found"] == "slack/known, for find-peak/local"
    assert "json://127.0.0.1:9" not in str(findings)


def test_files_that_tiled_can_no_longer_read_are_told_of(stack, raw):
    beamline = Beamline(raw, stack.images)
    before = set(stack.images.rglob("*.npy"))
    beamline.run(bp.count([beamline.devices.img], 1))
    code, findings = check(stack)
    assert code == 0, problems(findings)
    [files] = [one for one in findings if one["name"] == "files"]
    assert files["found"].startswith("Tiled reads img of run ")
    [written] = set(stack.images.rglob("*.npy")) - before
    moved = written.rename(written.with_suffix(".moved"))
    try:
        code, findings = check(stack)
    finally:
        moved.rename(written)
    assert code == 1
    [(key, found)] = problems(findings).items()
    assert key == ("tiled", "files")
    assert Path(found["found"].partition("file://localhost")[2].partition(")")[0]).name == written.name
    assert found["remedy"].startswith("see that they are there")


def test_a_catalog_without_its_spec_or_none_at_all_is_told_with_the_command(stack, raw):
    code, findings = check(stack, BLUESKY_PREFECT_RAW_CONTAINER="not/there")
    assert code == 1
    assert problems(findings)["tiled", "raw"]["remedy"] == "bluesky-prefect make-catalog"
    # What it holds is none of runs.
    raw.parent.create_container("results").write_table({"peak": [1.0]})
    code, findings = check(stack, BLUESKY_PREFECT_RAW_CONTAINER="results")
    assert code == 1
    [(key, found)] = problems(findings).items()
    assert key == ("tiled", "raw")
    assert "make-catalog" in found["found"]


# What a worker asks before it takes a flow run.
PROBLEM = "from bluesky_prefect.tiled_api import flows_problem; print(flows_problem())"


def test_a_worker_s_check_has_nothing_against_this_stack_and_names_what_is_wrong(stack):
    environment = {**os.environ, **stack.environment()}
    assert look_again(lambda: run_code(PROBLEM, env=environment).stdout) == "\n"
    wrong = {"BLUESKY_PREFECT_TILED_API_KEY": "abc123", "TILED_API_KEY": "abc123"}
    assert "set TILED_API_KEY" in run_code(PROBLEM, env={**environment, **wrong}).stdout
    nowhere = {"BLUESKY_PREFECT_RAW_CONTAINER": "not/there"}
    assert "has no container 'not/there'" in run_code(PROBLEM, env={**environment, **nowhere}).stdout
