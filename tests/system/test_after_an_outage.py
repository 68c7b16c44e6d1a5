"""The how-to "After an outage: what happened to my runs?": each command in it does what the page says."""

import os
import re
import shlex
from contextlib import closing
from pathlib import Path

import pytest
from prefect.states import Completed, Crashed, Running

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.core import Submission, submission_key
from tests.services.forked import run_command
from tests.services.second_looks import look_again
from tests.system.hutch import DEPLOYMENT, Hutch, idle_deployment

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
# It leads to the other page for a server of one's own.
PAGES = [(HOW_TO / page).read_text() for page in ("after-an-outage.md", "install-at-a-beamline.md")]
COMMANDS = [one for page in PAGES for one in re.findall(r"^\$ bluesky-prefect (.*)$", page, re.MULTILINE)]
# What the page calls a beamline's, as it is here. Nobody is to reconcile meanwhile.
HERE = {
    "my-workflow/local": DEPLOYMENT,
    "my-pool": Settings().work_pool,
    "my_beamline.workflows:workflows": "tests.system.hutch:WORKFLOWS",
    "300": "86400",
}


@pytest.fixture
def hutch(stack, tmp_path):
    """After a weekend: scans 1200 to 1203, of which one was processed, and the dead letter of scan 1234."""
    with (
        idle_deployment(stack),
        closing(Hutch(stack, f"raw-{tmp_path.name}", tmp_path / "state")) as hutch,
        closing(Outbox(hutch.settings.outbox_path)) as outbox,
    ):
        hutch.beamline.engine.md["scan_id"] = 1199
        hutch.uids = [hutch.count() for _ in range(4)]
        hutch.reconcile(submit=True, only={"scan_id": 1200})
        hutch.reconcile(submit=True, only={"scan_id": 1201})
        hutch.end(hutch.uids[0], Completed())
        hutch.end(hutch.uids[1], Running(), Crashed(message="killed"))
        start = {"uid": "dead-1234", "scan_id": 1234, "plan_name": "count"}
        key = submission_key(start["uid"], DEPLOYMENT)
        outbox.put(Submission(key, DEPLOYMENT, DEPLOYMENT, start["uid"], start), dead="no such sample")
        key = submission_key("left-behind", DEPLOYMENT)
        outbox.put(Submission(key, DEPLOYMENT, DEPLOYMENT, "left-behind"), api_url="http://old-server:4200/api")
        hutch.outbox = outbox
        yield hutch


def run(hutch, stack, command):
    words = [HERE.get(word, word) for word in shlex.split(command)]
    if words[0] == "deploy":  # beside those of the stack, which others use
        words += ["--name", "outage"]
    if words[0] == "status":  # of the stack itself, whose state directory is not the hutch's
        words += ["--state-directory", str(stack.state_directory)]
    times = 10 if words[0] == "status" else 1  # it gives a server two seconds
    environment = {**os.environ, **hutch.environment}
    done = look_again(lambda: run_command(*words, env=environment), said=lambda done: done.stdout, times=times)
    return done.returncode, " ".join(done.stdout.split()), done.stderr


def test_each_command_of_the_page_does_what_it_says(hutch, stack):
    ended = []
    for command in COMMANDS:
        code, said, error = run(hutch, stack, command)
        assert "Traceback" not in error, error
        ended.append((command, code))
        match command.split():
            case ["status"]:
                assert "Outbox:" in said
            case ["reconcile", *_] if len(ended) == 2:
                assert re.search(r"crashed \d+ s killed", said)
                assert said.count("no flow run") == 3  # two runs, and the line below
                assert re.search(r"dead letter \d+ s no such sample", said)
                assert code == 1
            case ["reconcile", *_, "--submit"]:
                assert said.count("started: ") == 3
            case ["reconcile", *_]:
                assert "3 under way" in said
                assert code == 1, "the dead letter is left"
            case ["outbox", "list"]:
                assert "no such sample" in said
            case ["outbox", "show", _]:
                assert "no such sample" in said
            case ["outbox", "retry", _]:
                assert [entry.state for entry in hutch.outbox.entries(run_uid="dead-1234")] == ["waiting"]
            case ["outbox", "discard", *_]:
                assert hutch.outbox.entries(run_uid="dead-1234") == []
            case ["outbox", "move", *_]:
                [moved] = hutch.outbox.entries(run_uid="left-behind")
                assert moved.api_url == "http://new-server:4200/api"
            case ["submit", _, "--again", "--dry-run"]:
                assert "4 would be started" in said
                assert len(hutch.flow_runs(hutch.uids[3])) == 1
            case ["submit", "1200..1203", "--again"]:
                assert [len(hutch.flow_runs(uid)) for uid in hutch.uids] == [2, 3, 2, 2]
            case ["submit", "1203", *_]:
                assert hutch.flow_runs(hutch.uids[3])[-1].parameters == {"ref": hutch.uids[3], "date": "2026-01-01"}
            case ["submit", "--made-by", *_]:
                assert "Tiled has no results that <0.2 made" in error + said
            case ["deploy", *_]:
                assert "with the list tests.system.hutch:WORKFLOWS" in error
            case _:
                pytest.fail(f"The page has a command that this test does not know: {command}")
    assert len(ended) == 15
    assert [command for command, code in ended if code and not command.startswith("reconcile")] == []
